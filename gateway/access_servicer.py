"""AccessService: API keys, one method each; and what is known of one that a call showed."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

import grpc

from atelier.api_keys import (
    ID_BYTES,
    KEY_ID,
    SCOPES,
    SECRET_BYTES,
    new_key,
    read_key,
    tenant_violations,
)
from atelier.errors import FailedPreconditionError, InvalidArgumentError, Violation, refuse
from atelier.v1 import access_pb2 as pb
from atelier.v1 import access_pb2_grpc as pb_grpc
from atelier.v1 import access_store_pb2 as store_pb
from gateway.identity import Caller
from gateway.keys import Find, Found
from gateway.scheduler_client import SchedulerClient

Context: TypeAlias = grpc.aio.ServicerContext

MAX_DESCRIPTION, MAX_EXPIRE_DAYS, MAX_OVERLAP_SECONDS = 200, 3_650, 30 * 86_400
MOST_LISTED = 1_000


class AccessServicer(pb_grpc.AccessServiceServicer):
    """Checks, draws ids and secrets, hands on: secrets never leave it but to who asked."""

    def __init__(self, scheduler: SchedulerClient) -> None:
        self._scheduler = scheduler
        self._store = scheduler.access

    async def CreateKey(
        self, request: pb.CreateKeyRequest, context: Context
    ) -> pb.CreateKeyResponse:
        refuse(key_violations(request))
        key = pb.ApiKey(
            tenant=request.tenant,
            scopes=[scope for scope in SCOPES if scope in request.scopes],
            description=request.description,
        )
        if request.expire_days:
            key.expire_time.FromDatetime(datetime.now(UTC) + timedelta(days=request.expire_days))
        made, text = await self._insert(store_pb.InsertKeyRequest(key=key), context)
        return pb.CreateKeyResponse(key=made, text=text)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        if request.tenant:
            refuse(tenant_violations(request.tenant))
        asked = store_pb.ScanKeysRequest(tenant=request.tenant, limit=MOST_LISTED)
        answer: store_pb.ScanKeysResponse = await self._scheduler.ask(
            self._store.ScanKeys, asked, context
        )
        return pb.ListKeysResponse(keys=answer.keys)

    async def RevokeKey(
        self, request: pb.RevokeKeyRequest, context: Context
    ) -> pb.RevokeKeyResponse:
        check_id(request.id)
        answer: store_pb.EndKeyResponse = await self._scheduler.ask(
            self._store.EndKey, store_pb.EndKeyRequest(id=request.id), context
        )
        return pb.RevokeKeyResponse(key=answer.key)

    async def RotateKey(
        self, request: pb.RotateKeyRequest, context: Context
    ) -> pb.RotateKeyResponse:
        check_id(request.id)
        if not 0 <= request.overlap_seconds <= MAX_OVERLAP_SECONDS:
            must = f"must be 0 to {MAX_OVERLAP_SECONDS}; got {request.overlap_seconds}"
            raise InvalidArgumentError([Violation("overlap_seconds", must)])
        answer: store_pb.FindKeyResponse = await self._scheduler.ask(
            self._store.FindKey, store_pb.FindKeyRequest(id=request.id), context
        )
        old, now = answer.key, datetime.now(UTC)
        expires = old.expire_time.ToDatetime(UTC) if old.HasField("expire_time") else None
        if old.HasField("revoke_time") or (expires and expires <= now):
            raise FailedPreconditionError(
                f"the key {old.id} has ended: make a new one", reason="API_KEY_ENDED"
            )
        key = pb.ApiKey(tenant=old.tenant, scopes=old.scopes, description=old.description)
        if expires:
            key.expire_time.FromDatetime(now + (expires - old.create_time.ToDatetime(UTC)))
        made, text = await self._insert(
            store_pb.InsertKeyRequest(
                key=key, replaces=old.id, overlap_seconds=request.overlap_seconds
            ),
            context,
        )
        return pb.RotateKeyResponse(key=made, text=text)

    async def _insert(
        self, asked: store_pb.InsertKeyRequest, context: Context
    ) -> tuple[pb.ApiKey, str]:
        text = new_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
        key = read_key(text)
        assert key
        asked.key.id, asked.secret_hash = key.id, key.secret_hash
        answer: store_pb.InsertKeyResponse = await self._scheduler.ask(
            self._store.InsertKey, asked, context
        )
        return answer.key, text


def key_violations(request: pb.CreateKeyRequest) -> list[Violation]:
    """What is wrong with a key that is to be made."""
    bad = tenant_violations(request.tenant)
    if not request.scopes or not set(request.scopes) <= set(SCOPES):
        bad.append(Violation("scopes", f"must be one or more of {', '.join(SCOPES)}"))
    if len(request.description) > MAX_DESCRIPTION or "\0" in request.description:
        must = f"must be at most {MAX_DESCRIPTION} characters, none of them NUL"
        bad.append(Violation("description", must))
    if not 0 <= request.expire_days <= MAX_EXPIRE_DAYS:
        bad.append(Violation("expire_days", f"must be 1 to {MAX_EXPIRE_DAYS}, or 0 for never"))
    return bad


def check_id(key_id: str) -> None:
    """Raises InvalidArgumentError: it cannot be one of ours."""
    if not KEY_ID.fullmatch(key_id):
        must = "must be a key's id, as ListKeys tells: the 13 characters after atk_"
        raise InvalidArgumentError([Violation("id", must)])


def finding(scheduler: SchedulerClient) -> Find:
    """How keys that calls show are looked up."""

    async def find(key_id: str) -> Found | None:
        asked = store_pb.FindKeyRequest(id=key_id, shown=True)
        try:
            answer: store_pb.FindKeyResponse = await scheduler.ask(
                scheduler.access.FindKey, asked, None
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        key = answer.key
        return Found(
            Caller(key.tenant, frozenset(key.scopes), key.id),
            answer.secret_hash,
            key.expire_time.ToDatetime(UTC) if key.HasField("expire_time") else None,
            key.HasField("revoke_time"),
        )

    return find
