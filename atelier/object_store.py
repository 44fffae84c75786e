"""The object store: results by key, over S3. Synchronous; callers on a loop use asyncio.to_thread.

Every call has timeouts and a bounded number of tries; what is wrong in the end is an
UnavailableError whose text names no address, key or bucket.
"""

from __future__ import annotations

import base64
import hashlib
import io
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import BinaryIO, Self, TypeVar, cast

import structlog
import urllib3
from minio import Minio
from minio.error import MinioException, S3Error, ServerError

from atelier.config import ObjectStoreSettings
from atelier.errors import NotFoundError, UnavailableError

log = structlog.get_logger()

T = TypeVar("T")

CONNECT_SECONDS = 2.0
READ_SECONDS = 20.0
TRIES = 4
FIRST_PAUSE_SECONDS = 0.2  # doubled each time, with full jitter
PART_BYTES = 5 * 2**20  # of an upload of unknown length; S3 takes no smaller ones
_POOL_CONNECTIONS = 16
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"}
)


@dataclass(frozen=True)
class Stored:
    """What was stored; `sha256` in lower-case hexadecimal."""

    size_bytes: int
    sha256: str


class ObjectStore:
    """One bucket."""

    def __init__(
        self,
        client: Minio,
        bucket: str,
        *,
        rng: Random,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._rng = rng
        self._sleep = sleep

    @classmethod
    def from_settings(cls, settings: ObjectStoreSettings) -> Self:
        """The store that the settings name; opens no connection yet."""
        pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            retries=urllib3.Retry(0, redirect=0),  # the tries are ours, below
            maxsize=_POOL_CONNECTIONS,
            cert_reqs="CERT_REQUIRED",
        )
        client = Minio(
            endpoint=settings.s3_endpoint,
            access_key=settings.s3_access_key,
            secret_key=settings.s3_secret_key.get_secret_value(),
            secure=settings.s3_secure,
            region=settings.s3_region,  # given, so that presigning never calls out
            http_client=pool,
        )
        return cls(client, settings.s3_bucket, rng=secrets.SystemRandom())

    def put(self, key: str, data: bytes, content_type: str) -> None:
        """Store `data` under `key`; the store checks its SHA-256 before it says yes.

        Raises:
            UnavailableError: it was not taken.
        """
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        self._try(
            "put",
            lambda: self._client.put_object(
                bucket_name=self._bucket,
                object_name=key,
                data=io.BytesIO(data),
                length=len(data),
                content_type=content_type,
                part_size=max(PART_BYTES, len(data)),  # in one piece: the checksum is of all
                metadata={"x-amz-checksum-sha256": digest},
            ),
        )

    def put_stream(
        self, key: str, pieces: Callable[[], Iterable[bytes]], content_type: str
    ) -> Stored:
        """Store what `pieces` gives under `key`, part by part, while it gives it.

        Nothing lies under `key` until all of it does. One part is in memory at a time.

        Args:
            pieces: called again for each try; what it raises ends the upload, and is raised here.

        Raises:
            UnavailableError: it was not taken.
        """

        def put() -> Stored:
            reader = _Reader(pieces())
            self._client.put_object(
                bucket_name=self._bucket,
                object_name=key,
                data=cast(BinaryIO, reader),
                length=-1,
                content_type=content_type,
                part_size=PART_BYTES,
                num_parallel_uploads=1,  # else several parts wait in memory
            )
            return Stored(reader.size_bytes, reader.digest.hexdigest())

        return self._try("put_stream", put)

    def get(self, key: str, *, most_bytes: int | None = None) -> bytes:
        """What lies under `key`.

        Args:
            most_bytes: read no more than these, the first ones.

        Raises:
            NotFoundError: nothing does.
            UnavailableError: the store does not say.
        """

        def read() -> bytes:
            response = self._client.get_object(bucket_name=self._bucket, object_name=key)
            try:
                return bytes(response.read(most_bytes))
            finally:
                response.close()
                response.release_conn()

        return self._try("get", read)

    def has(self, key: str) -> bool:
        """Whether anything lies under `key`.

        Raises:
            UnavailableError: the store does not say.
        """
        try:
            self._try(
                "has", lambda: self._client.stat_object(bucket_name=self._bucket, object_name=key)
            )
        except NotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Delete what lies under `key`, if anything does.

        Raises:
            UnavailableError: the store does not say that it did.
        """
        self._try(
            "delete",
            lambda: self._client.remove_object(bucket_name=self._bucket, object_name=key),
        )

    def presign(self, key: str, expires_seconds: int) -> tuple[str, datetime]:
        """A URL to GET `key`, and when it ceases to work. Computed here, nothing is called."""
        now = datetime.now(UTC).replace(microsecond=0)  # a signature holds whole seconds
        lifetime = timedelta(seconds=expires_seconds)
        url = self._client.presigned_get_object(
            bucket_name=self._bucket, object_name=key, expires=lifetime, request_date=now
        )
        return url, now + lifetime

    def _try(self, what: str, call: Callable[[], T]) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                return call()
            except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
                if isinstance(error, S3Error) and error.code == "NoSuchKey":
                    raise NotFoundError("no such object") from error
                code = error.code if isinstance(error, S3Error) else type(error).__name__
                log.warning("object store failed", call=what, attempt=attempt, code=code)
                if attempt == TRIES or not _transient(error):
                    raise UnavailableError(
                        "the object store is away", reason="OBJECT_STORE_UNAVAILABLE"
                    ) from error
            pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
            self._sleep(self._rng.uniform(0, pause))
        raise AssertionError("unreachable: the last try returns or raises")


class _Reader:
    """What minio reads a stream by; counts and hashes what was read."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.size_bytes = 0
        self.digest = hashlib.sha256()
        self._pieces = iter(pieces)
        self._held = bytearray()

    def read(self, size: int) -> bytes:
        """As many bytes as asked for; fewer at the end only."""
        while len(self._held) < size and (piece := next(self._pieces, None)) is not None:
            self._held += piece
        taken = bytes(self._held[:size])
        del self._held[:size]
        self.size_bytes += len(taken)
        self.digest.update(taken)
        return taken


def _transient(error: Exception) -> bool:
    """Whether the same call may work in a moment."""
    if isinstance(error, S3Error):
        return error.code in _TRANSIENT_CODES or int(error.response.status) >= 500
    if isinstance(error, ServerError):
        return int(error.status_code) >= 500
    return True  # connections, timeouts, a proxy's page instead of XML
