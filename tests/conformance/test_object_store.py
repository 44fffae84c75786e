"""The object store: its tries over a scripted client, and its promises over a real S3 server."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest
import urllib3
from minio.error import S3Error, ServerError
from pydantic import SecretStr

from atelier.config import ObjectStoreSettings
from atelier.errors import NotFoundError, UnavailableError
from atelier.object_store import FIRST_PAUSE_SECONDS, PART_BYTES, ObjectStore
from atelier.s3_client import PATIENT
from tests.support.s3 import s3_server

SECRET = "canary-secret"
TRIES = PATIENT.tries


def settings(endpoint: str, **changes: Any) -> ObjectStoreSettings:
    values: dict[str, Any] = {
        "s3_endpoint": endpoint,
        "s3_access_key": "key",
        "s3_secret_key": SecretStr(SECRET),
    }
    return ObjectStoreSettings(**(values | changes))


# --- tries, without a server ---------------------------------------------------------------------


def s3_error(code: str, status: int) -> S3Error:
    response = Mock(status=status)
    return S3Error(response, code, "text", "resource", "request", "host", "bucket", "key")


class Scripted:
    """A client that fails as it is told, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def put_object(self, **_: Any) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)


def scripted(*failures: Exception) -> tuple[Scripted, ObjectStore, list[float]]:
    client, pauses = Scripted(*failures), []
    store = ObjectStore(client, "b", rng=Random(1), sleep=pauses.append)  # type: ignore[arg-type]
    return client, store, pauses


TRANSIENT = [
    ServerError("bad gateway", 502),
    s3_error("SlowDown", 503),
    urllib3.exceptions.ProtocolError("reset"),
    ConnectionResetError(),
]


def test_transient_failures_are_tried_again() -> None:
    client, store, pauses = scripted(*TRANSIENT[: TRIES - 1])
    store.put("k", b"data", "image/png")
    assert client.calls == TRIES
    for number, pause in enumerate(pauses):
        assert 0 <= pause <= FIRST_PAUSE_SECONDS * 2**number


def test_a_stream_is_begun_again_at_each_try() -> None:
    begun, read = 0, []

    class Client(Scripted):
        def put_object(self, **given: Any) -> None:
            read.append(given["data"].read(3))
            super().put_object()
            read.append(given["data"].read(100))

    def pieces() -> Iterator[bytes]:
        nonlocal begun
        begun += 1
        yield from (b"ab", b"cd", b"e")

    client = Client(TRANSIENT[0])
    store = ObjectStore(client, "b", rng=Random(1), sleep=lambda _: None)  # type: ignore[arg-type]
    stored = store.put_stream("k", pieces, "video/mp4")
    assert (begun, read) == (2, [b"abc", b"abc", b"de"])
    assert (stored.size_bytes, stored.sha256) == (5, hashlib.sha256(b"abcde").hexdigest())


def test_tries_are_bounded() -> None:
    client, store, pauses = scripted(*TRANSIENT)
    with pytest.raises(UnavailableError) as failed:
        store.put("k", b"data", "image/png")
    assert (client.calls, len(pauses)) == (TRIES, TRIES - 1)
    assert failed.value.message == "the object store is away"


def test_what_will_not_change_is_not_tried_again() -> None:
    client, store, _ = scripted(s3_error("AccessDenied", 403))
    with pytest.raises(UnavailableError):
        store.put("k", b"data", "image/png")
    assert client.calls == 1


def test_presigning_calls_nobody() -> None:
    store = ObjectStore.from_settings(settings("127.0.0.1:1", s3_region="eu-west-1"))
    url, expiry = store.presign("results/t/g/1/0.png", 900)
    assert url.startswith("http://127.0.0.1:1/atelier/results/t/g/1/0.png?")
    assert "eu-west-1" in url
    assert SECRET not in url
    assert 890 < (expiry - datetime.now(UTC)).total_seconds() <= 900


# --- a real server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a running SeaweedFS serves S3."""
    # A socket's path may have 107 bytes only; a folder's may have more.
    folder = tmp_path_factory.mktemp("s3") / f"a {'long ' * 20}path"
    with s3_server(folder, "key", SECRET) as address:
        yield address


@pytest.fixture
def store(endpoint: str) -> ObjectStore:
    made = ObjectStore.from_settings(settings(endpoint))
    if not made._client.bucket_exists(bucket_name="atelier"):
        made._client.make_bucket(bucket_name="atelier")
    return made


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


@pytest.mark.real
@pytest.mark.parametrize("size", [0, 300_000, PART_BYTES, PART_BYTES + 1, 30_000_000])
def test_bytes_survive(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    store.put("results/local/g/1/0.png", data, "image/png")
    assert store.get("results/local/g/1/0.png") == data
    url, _ = store.presign("results/local/g/1/0.png", 60)
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["content-type"] == "image/png"
        assert hashlib.sha256(answer.read()).digest() == hashlib.sha256(data).digest()


@pytest.mark.real
@pytest.mark.parametrize("size", [0, 1_000, PART_BYTES, 2 * PART_BYTES + 17])
def test_a_stream_of_unknown_length_arrives_whole(store: ObjectStore, size: int) -> None:
    data = Random(size).randbytes(size)

    def pieces() -> Iterator[bytes]:
        yield from (data[at : at + 99_991] for at in range(0, size, 99_991))

    stored = store.put_stream("films/1.mp4", pieces, "video/mp4")
    assert (stored.size_bytes, stored.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert store.get("films/1.mp4") == data
    url, _ = store.presign("films/1.mp4", 60)
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["content-type"] == "video/mp4"


@pytest.mark.real
def test_a_stream_that_breaks_off_leaves_nothing(store: ObjectStore) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(PART_BYTES + 1)
        yield bytes(PART_BYTES)
        begun = store._client._list_multipart_uploads(bucket_name="atelier")
        assert [upload.object_name for upload in begun.uploads] == ["films/2.mp4"]
        raise KeyError("cancelled")

    with pytest.raises(KeyError):
        store.put_stream("films/2.mp4", pieces, "video/mp4")
    assert not store._client._list_multipart_uploads(bucket_name="atelier").uploads
    with pytest.raises(NotFoundError):
        store.get("films/2.mp4")


@pytest.mark.real
@pytest.mark.parametrize("key", ["a b/ü/円.png", "results/%2E%2E/g/1/0.png", "a+b/c=d"])
def test_odd_keys(store: ObjectStore, key: str) -> None:
    store.put(key, key.encode(), "text/plain")
    assert store.get(key) == key.encode()
    assert fetch(store.presign(key, 60)[0]) == key.encode()


@pytest.mark.real
def test_what_is_not_there(store: ObjectStore) -> None:
    assert not store.has("nothing/here")
    for most_bytes in (None, 10):
        with pytest.raises(NotFoundError):
            store.get("nothing/here", most_bytes=most_bytes)


@pytest.mark.real
@pytest.mark.parametrize("size", [0, 5, 10, 11, 3_000_000])
def test_no_more_is_read_than_asked_for(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    store.put("inputs/local/large.png", data, "image/png")
    assert store.has("inputs/local/large.png")
    for _ in range(3):  # what was left unread spoils no later answer
        assert store.get("inputs/local/large.png", most_bytes=10) == data[:10]
    assert store.get("inputs/local/large.png") == data


@pytest.mark.real
def test_a_url_is_good_for_its_key_and_time_only(store: ObjectStore) -> None:
    store.put("mine", b"mine", "text/plain")
    store.put("yours", b"yours", "text/plain")
    url, expiry = store.presign("mine", 1)
    assert fetch(url) == b"mine"
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(url.replace("/mine?", "/yours?"))
    assert refused.value.code == 403
    refused.value.close()
    time.sleep(max(0.0, (expiry - datetime.now(UTC)).total_seconds()) + 1.1)
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(url)
    assert refused.value.code == 403
    refused.value.close()


@pytest.mark.real
def test_the_store_checks_the_checksum(store: ObjectStore) -> None:
    """The header that `put` sends is really looked at."""
    import io

    with pytest.raises(S3Error) as refused:
        store._client.put_object(
            bucket_name="atelier", object_name="broken", data=io.BytesIO(b"data"), length=4,
            metadata={"x-amz-checksum-sha256": "A" * 43 + "="},
        )  # fmt: skip
    assert refused.value.code in ("BadDigest", "InvalidRequest", "XAmzContentChecksumMismatch")


@pytest.mark.real
def test_what_is_deleted_is_gone(store: ObjectStore) -> None:
    store.put("short-lived", b"data", "text/plain")
    store.delete("short-lived")
    with pytest.raises(NotFoundError):
        store.get("short-lived")
    store.delete("short-lived")  # again: nothing happens


@pytest.mark.real
def test_wrong_keys_are_away_not_shown(endpoint: str) -> None:
    stranger = ObjectStore.from_settings(settings(endpoint, s3_secret_key=SecretStr("wrong")))
    with pytest.raises(UnavailableError) as failed:
        stranger.put("k", b"", "text/plain")
    assert endpoint not in failed.value.message
