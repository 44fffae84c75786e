"""One object store: what lies in a bucket, by key, over S3. Synchronous; callers on a loop use
asyncio.to_thread. Two of them, of which one is away, are in `stores`.

Every call has timeouts and a bounded number of tries; what is wrong in the end is an
UnavailableError whose text names no address, key or bucket.
"""

from __future__ import annotations

import base64
import hashlib
import io
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from random import Random
from typing import BinaryIO, Self, TypeVar, cast

import structlog
import urllib3
from minio import Minio
from minio.error import MinioException, S3Error
from opentelemetry.metrics import Histogram

from atelier.config import Bucket, ObjectStoreSettings
from atelier.errors import NotFoundError, UnavailableError
from atelier.failpoints import failpoint
from atelier.s3_client import PATIENT, Patience, Reader, client_of, is_silence, is_transient

log = structlog.get_logger()

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.2  # doubled each time, with full jitter
PART_BYTES = 5 * 2**20  # of an upload of unknown length; S3 takes no smaller ones
PAGE_KEYS = 1_000  # as S3 lists them
_MISSING = ("NoSuchKey", "NoSuchUpload")
_BLOCK_BYTES = 2**18


@dataclass(frozen=True)
class Stored:
    """What was stored, and under which key; `sha256` in lower-case hexadecimal."""

    size_bytes: int
    sha256: str
    key: str


@dataclass(frozen=True)
class Listed:
    """An object, as a store tells of it."""

    key: str
    size_bytes: int
    modified: datetime
    content_type: str = ""  # a listing has none


class ObjectStore:
    """One bucket."""

    def __init__(
        self,
        client: Minio,
        bucket: str,
        *,
        rng: Random,
        sleep: Callable[[float], None] = time.sleep,
        patience: Patience = PATIENT,
    ) -> None:
        self._patience = patience
        self._client = client
        self._bucket = bucket
        self._rng = rng
        self._sleep = sleep
        self._took: Histogram | None = None
        self._name = ""

    @classmethod
    def from_settings(cls, settings: ObjectStoreSettings) -> Self:
        """The first store that the settings name; opens no connection yet."""
        return cls.at(settings.primary)

    @classmethod
    def at(cls, bucket: Bucket, patience: Patience = PATIENT) -> Self:
        """As `from_settings`."""
        return cls(
            client_of(bucket, patience), bucket.name, rng=secrets.SystemRandom(), patience=patience
        )

    def put(self, key: str, data: bytes, content_type: str) -> str:
        """Store `data` under `key`, which is returned; the store checks its SHA-256 before it says
        yes.

        Raises:
            UnavailableError: it was not taken.
        """
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()

        def put() -> str:
            self._client.put_object(
                bucket_name=self._bucket,
                object_name=key,
                data=io.BytesIO(data),
                length=len(data),
                content_type=content_type,
                part_size=max(PART_BYTES, len(data)),  # in one piece: the checksum is of all
                metadata={"x-amz-checksum-sha256": digest},
            )
            failpoint("put_done", ConnectionError)
            return key

        return self._try("put", put)

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
            reader = Reader(pieces())
            self._client.put_object(
                bucket_name=self._bucket,
                object_name=key,
                data=cast(BinaryIO, reader),
                length=-1,
                content_type=content_type,
                part_size=PART_BYTES,
                num_parallel_uploads=1,  # else several parts wait in memory
            )
            failpoint("put_done", ConnectionError)
            return Stored(reader.size_bytes, reader.digest.hexdigest(), key)

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

    def blocks(self, key: str) -> Iterator[bytes]:
        """What lies under `key`, while it is read. Tried once; errors are those of the client, for
        `put_stream` of another store to try again."""
        response = self._client.get_object(bucket_name=self._bucket, object_name=key)
        try:
            yield from response.stream(_BLOCK_BYTES)
        finally:
            response.close()
            response.release_conn()

    def find(self, key: str) -> Listed | None:
        """What the store tells of `key`; None where nothing lies there.

        Raises:
            UnavailableError: the store does not say.
        """
        try:
            found = self._try(
                "find", lambda: self._client.stat_object(bucket_name=self._bucket, object_name=key)
            )
        except NotFoundError:
            return None
        return Listed(key, found.size, found.last_modified, found.content_type)

    def has(self, key: str) -> bool:
        """Whether anything lies under `key`.

        Raises:
            UnavailableError: the store does not say.
        """
        return self.find(key) is not None

    def pages(self, prefix: str) -> Iterator[list[Listed]]:
        """All that begins so, in the order of keys, a page at a time.

        Raises:
            UnavailableError: the store does not say.
        """
        page: list[Listed] = []
        while page := self._try("list", partial(self._page, prefix, page)):
            yield page

    def _page(self, prefix: str, before: list[Listed]) -> list[Listed]:
        found = self._client.list_objects(
            bucket_name=self._bucket,
            prefix=prefix,
            recursive=True,
            start_after=before[-1].key if before else None,
        )
        return [Listed(o.object_name, o.size, o.last_modified) for o in islice(found, PAGE_KEYS)]

    def end_uploads(self, before: datetime, *, dry_run: bool = False) -> int:
        """End uploads in parts that were begun earlier and never finished; how many there were.

        Raises:
            UnavailableError: the store does not say.
        """
        found, more = 0, dict[str, str]()
        while True:
            page = self._try(
                "list_uploads",
                partial(
                    self._client._list_multipart_uploads, self._bucket, **more
                ),  # there is no public way
            )
            for one in page.uploads:
                if one.initiated_time is not None and one.initiated_time < before:
                    found += 1
                    if not dry_run:
                        self._end_upload(one.object_name, one.upload_id)
            if not page.is_truncated:
                return found
            more = {
                "key_marker": page.next_key_marker,
                "upload_id_marker": page.next_upload_id_marker,
            }

    def _end_upload(self, key: str, upload_id: str) -> None:
        try:
            self._try(
                "end_upload",
                lambda: self._client._abort_multipart_upload(self._bucket, key, upload_id),
            )
        except NotFoundError:
            return  # it ended meanwhile

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

    def measure(self, took: Histogram, name: str) -> None:
        """Tell how long calls take, from now on, and how they end."""
        self._took, self._name = took, name

    def _try(self, what: str, call: Callable[[], T]) -> T:
        if self._took is None:
            return self._tries(what, call)
        began, outcome = time.perf_counter(), "failed"
        try:
            answer = self._tries(what, call)
            outcome = "ok"
            return answer
        except NotFoundError:
            outcome = "missing"
            raise
        finally:
            labels = {"store": self._name, "operation": what, "outcome": outcome}
            self._took.record(time.perf_counter() - began, labels)

    def _tries(self, what: str, call: Callable[[], T]) -> T:
        for attempt in range(1, self._patience.tries + 1):
            try:
                return call()
            except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
                if isinstance(error, S3Error) and error.code in _MISSING:
                    raise NotFoundError("no such object") from error
                code = error.code if isinstance(error, S3Error) else type(error).__name__
                log.warning("object store failed", call=what, attempt=attempt, code=code)
                if attempt == self._patience.tries or not self._worth_another(error):
                    raise UnavailableError(
                        "the object store is away", reason="OBJECT_STORE_UNAVAILABLE"
                    ) from error
            pause = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
            self._sleep(self._rng.uniform(0, pause))
        raise AssertionError("unreachable: the last try returns or raises")

    def _worth_another(self, error: Exception) -> bool:
        return is_transient(error) and (self._patience.again_after_timeout or not is_silence(error))
