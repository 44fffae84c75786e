"""The S3 library's client, with time limits; what it reads streams by; and what its errors mean."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import urllib3
from minio import Minio
from minio.error import S3Error, ServerError

from atelier.config import Bucket

_POOL_CONNECTIONS = 16
_TRANSIENT_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"}
)


@dataclass(frozen=True)
class Patience:
    """How long a store is waited for, and how often it is asked."""

    connect_seconds: float = 2.0
    read_seconds: float = 20.0
    tries: int = 4
    again_after_timeout: bool = True


PATIENT = Patience()


def client_of(bucket: Bucket, patience: Patience) -> Minio:
    """A client that opens no connection yet. It tries nothing again."""
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=patience.connect_seconds, read=patience.read_seconds),
        retries=urllib3.Retry(0, redirect=0),  # the tries are ours
        maxsize=_POOL_CONNECTIONS,
        cert_reqs="CERT_REQUIRED",
    )
    return _Client(
        endpoint=bucket.endpoint,
        access_key=bucket.access_key,
        secret_key=bucket.secret_key.get_secret_value(),
        secure=bucket.secure,
        region=bucket.region,  # given, so that presigning never calls out
        http_client=pool,
    )


class Reader:
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


def is_transient(error: Exception) -> bool:
    """Whether the same call may work in a moment."""
    if isinstance(error, S3Error):
        return error.code in _TRANSIENT_CODES or int(error.response.status) >= 500
    if isinstance(error, ServerError):
        return int(error.status_code) >= 500
    return True  # connections, timeouts, a proxy's page instead of XML


def is_silence(error: Exception) -> bool:
    """Whether the store said nothing for as long as it was waited for."""
    told = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
    causes = (told, *getattr(told, "args", ()))
    return any(isinstance(c, (TimeoutError, urllib3.exceptions.TimeoutError)) for c in causes)


class _Client(Minio):
    """As the library's, but that it does not ask a store that has just been silent to forget an
    upload: that would take as long again. The bucket's lifecycle does."""

    def _abort_multipart_upload(self, *args: object, **kwargs: object) -> None:
        error = sys.exc_info()[1]  # it is called where that is handled
        if not (isinstance(error, Exception) and is_silence(error)):
            super()._abort_multipart_upload(*args, **kwargs)
