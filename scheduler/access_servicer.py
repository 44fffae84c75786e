"""AccessStoreService: API keys for the gateways, one method each."""

from __future__ import annotations

from datetime import UTC
from typing import TypeAlias

import grpc

from atelier.key_store import KeyStore, StoredKey
from atelier.translate import time_to
from atelier.v1 import access_pb2
from atelier.v1 import access_store_pb2 as pb
from atelier.v1 import access_store_pb2_grpc as pb_grpc

Context: TypeAlias = grpc.aio.ServicerContext


class AccessServicer(pb_grpc.AccessStoreServiceServicer):
    """Reads and writes; who may is the gateway's to say."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    async def InsertKey(
        self, request: pb.InsertKeyRequest, context: Context
    ) -> pb.InsertKeyResponse:
        asked = request.key
        key = StoredKey(
            id=asked.id,
            tenant=asked.tenant,
            secret_hash=request.secret_hash,
            scopes=tuple(asked.scopes),
            description=asked.description,
            expire_time=(
                asked.expire_time.ToDatetime(UTC) if asked.HasField("expire_time") else None
            ),
        )
        written = await self._store.insert(
            key, replaces=request.replaces, overlap_seconds=request.overlap_seconds
        )
        return pb.InsertKeyResponse(key=key_to(written))

    async def FindKey(self, request: pb.FindKeyRequest, context: Context) -> pb.FindKeyResponse:
        read = self._store.use if request.shown else self._store.read
        found = await read(request.id)
        return pb.FindKeyResponse(key=key_to(found), secret_hash=found.secret_hash)

    async def ScanKeys(self, request: pb.ScanKeysRequest, context: Context) -> pb.ScanKeysResponse:
        found = await self._store.scan(request.tenant, request.limit)
        return pb.ScanKeysResponse(keys=[key_to(key) for key in found])

    async def EndKey(self, request: pb.EndKeyRequest, context: Context) -> pb.EndKeyResponse:
        return pb.EndKeyResponse(key=key_to(await self._store.revoke(request.id)))


def key_to(key: StoredKey) -> access_pb2.ApiKey:
    """All but its secret."""
    return access_pb2.ApiKey(
        id=key.id,
        tenant=key.tenant,
        scopes=key.scopes,
        description=key.description,
        create_time=time_to(key.create_time),
        expire_time=time_to(key.expire_time),
        revoke_time=time_to(key.revoke_time),
        last_use_time=time_to(key.last_use_time),
    )
