"""Two stores: real ones, of which the first is frozen, killed, slow, or answers 503."""

from __future__ import annotations

import hashlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest
from pydantic import SecretStr, ValidationError

from atelier.config import ObjectStoreSettings
from atelier.copy_back import CopyBack
from atelier.errors import NotFoundError, UnavailableError
from atelier.metrics import exported
from atelier.object_keys import in_secondary
from atelier.object_store import PART_BYTES, ObjectStore
from atelier.stores import Stores
from tests.support.ports import free_address
from tests.support.s3 import S3Server

KEY = "results/local/0197aaaa-0000-7000-8000-000000000001/7/0.png"
PATIENCE = 1.0  # seconds; short, so that the tests are
PROBE = 0.2

pytestmark = pytest.mark.real


def settings(first: str, second: str, **changes: object) -> ObjectStoreSettings:
    values: dict[str, object] = {
        "s3_endpoint": first,
        "s3_access_key": "key",
        "s3_secret_key": SecretStr("secret"),
        "s3_secondary_endpoint": second,
        "s3_secondary_secret_key": SecretStr("other"),
        "s3_patience_seconds": PATIENCE,
    }
    return ObjectStoreSettings(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("first"), "key", "secret") as server:
        yield server


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("second"), "key", "other") as server:
        yield server


@contextmanager
def stores_of(of: ObjectStoreSettings) -> Iterator[Stores]:
    stores = Stores.from_settings(of)
    stores._probe_seconds = PROBE
    yield stores
    stores.close()


@pytest.fixture
def stores(first: S3Server, second: S3Server) -> Iterator[Stores]:
    """Both are there, and empty."""
    with stores_of(settings(first.address, second.address)) as made:
        for store in (made.primary, made.secondary):
            assert store is not None
            for prefix in ("results/", "inputs/", "checkpoints/"):
                for page in store.pages(prefix):
                    for one in page:
                        store.delete(one.key)
        yield made


@contextmanager
def frozen(server: S3Server) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def fetched(stores: Stores, key: str) -> bytes:
    with urllib.request.urlopen(stores.presign(key, 60)[0], timeout=10) as answer:
        return bytes(answer.read())


def keys(store: ObjectStore | None) -> set[str]:
    assert store is not None
    return {one.key for prefix in ("results/", "inputs/", "checkpoints/")
            for page in store.pages(prefix) for one in page}  # fmt: skip


def test_while_all_is_well_the_secondary_is_not_used(stores: Stores) -> None:
    assert stores.put(KEY, b"picture", "image/png") == KEY
    assert stores.get(KEY) == fetched(stores, KEY) == b"picture"
    assert not stores.calls_to_presign(KEY)
    assert (keys(stores.primary), keys(stores.secondary)) == ({KEY}, set())


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_a_picture_is_stored_and_can_be_fetched_while_the_first_is_away(
    stores: Stores, first: S3Server, how: str
) -> None:
    first.freeze() if how == "frozen" else first.kill()
    try:
        stored = stores.put(KEY, b"picture", "image/png")
        assert stored == in_secondary(KEY) != KEY
        assert stores.get(stored) == fetched(stores, stored) == b"picture"
        asked: list[str] = []
        real, stores.primary.put = stores.primary.put, lambda *a: asked.append(a[0]) or real(*a)  # type: ignore[method-assign, func-returns-value]
        for index in range(1, 6):  # nobody else pays for it
            stores.put(KEY.replace("0.png", f"{index}.png"), b"more", "image/png")
        assert set(asked) <= {"probe"}
        assert stores.is_open and stores.failovers == 6
    finally:
        first.thaw() if how == "frozen" else first.start()
    until(lambda: not stores.is_open)
    other = KEY.replace("/7/", "/8/")
    assert stores.put(other, b"new", "image/png") == other
    assert other in keys(stores.primary)
    assert fetched(stores, stored) == b"picture"  # the old key works


def test_a_first_store_that_answers_503_is_passed_over(second: S3Server) -> None:
    class Busy(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_error(503)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with stores_of(settings(f"127.0.0.1:{server.server_port}", second.address)) as stores:
            stored = stores.put(KEY, b"picture", "image/png")
            assert (stored, stores.get(stored)) == (in_secondary(KEY), b"picture")
            assert stores.is_open
        server.shutdown()


def test_a_slow_first_store_is_left_alone(stores: Stores) -> None:
    real = stores.primary.put

    def slow(key: str, data: bytes, content_type: str) -> str:
        time.sleep(PATIENCE / 2)
        return real(key, data, content_type)

    stores.primary.put = slow  # type: ignore[method-assign]
    names = [KEY.replace("0.png", f"{index}.png") for index in range(4)]
    stored = [stores.put(name, b"picture", "image/png") for name in names]
    assert stored == [*names[:3], in_secondary(names[3])]


@pytest.mark.parametrize("at_piece", [0, 3, 7])
def test_a_film_is_given_to_the_second_store_from_its_first_piece(
    stores: Stores, first: S3Server, at_piece: int
) -> None:
    pieces = [Random(number).randbytes(PART_BYTES // 2) for number in range(8)]
    film, begun = b"".join(pieces), 0

    def encoded() -> Iterator[bytes]:
        nonlocal begun
        begun += 1
        for number, piece in enumerate(pieces):
            if number == at_piece:
                first.freeze()
            yield piece

    try:
        stored = stores.put_stream(KEY.replace("png", "mp4"), encoded, "video/mp4")
    finally:
        first.thaw()
    assert stored.key == in_secondary(KEY.replace("png", "mp4"))
    assert (stored.size_bytes, stored.sha256) == (len(film), hashlib.sha256(film).hexdigest())
    assert begun == 2
    assert stores.get(stored.key) == film


def test_a_cancel_while_the_first_store_is_silent_is_heard_before_anything_goes_elsewhere(
    stores: Stores, first: S3Server
) -> None:
    class CancelledError(Exception):
        pass

    def encoded() -> Iterator[bytes]:
        for number in range(8):
            if first_frozen.is_set():
                raise CancelledError
            yield bytes(PART_BYTES)
            if number == 2:
                first.freeze()
                threading.Timer(0.2, first_frozen.set).start()

    first_frozen = threading.Event()
    try:
        with pytest.raises(CancelledError):
            stores.put_stream(KEY, encoded, "video/mp4")
    finally:
        first.thaw()
    assert keys(stores.primary) == keys(stores.secondary) == set()


def test_what_the_encoder_raises_is_no_fault_of_the_store(stores: Stores) -> None:
    def encoded() -> Iterator[bytes]:
        yield bytes(PART_BYTES * 2)
        raise KeyError("encoder")

    with pytest.raises(KeyError):
        stores.put_stream(KEY, encoded, "video/mp4")
    assert not stores.is_open
    assert not keys(stores.secondary)


def test_pictures_that_were_brought_and_checkpoints_are_found_in_either(
    stores: Stores, first: S3Server
) -> None:
    brought, left_off = "inputs/local/abc.png", "checkpoints/local/g"
    with frozen(first):
        assert stores.put(brought, b"brought", "image/png") == brought
        assert stores.put(left_off, b"step 3", "application/x-npz") == left_off
        assert stores.has(brought) and not stores.has("inputs/local/other.png")
        assert stores.get(brought) == b"brought"
        with pytest.raises(UnavailableError):  # who knows
            stores.get("inputs/local/other.png")
    until(lambda: not stores.is_open)
    assert stores.has(brought)
    assert (stores.get(brought), stores.get(left_off)) == (b"brought", b"step 3")
    for nowhere in ("inputs/local/other.png", KEY, in_secondary(KEY)):
        with pytest.raises(NotFoundError):
            stores.get(nowhere)


def test_a_delete_reaches_whichever_has_it(stores: Stores, first: S3Server) -> None:
    stores.put(KEY, b"here", "image/png")
    with frozen(first):
        stores.put(KEY, b"there", "image/png")
        with pytest.raises(UnavailableError):  # it may lie in the first
            stores.delete(KEY)
        assert keys(stores.secondary) == set()
    until(lambda: not stores.is_open)
    stores.delete(KEY)
    assert keys(stores.primary) == set()


def test_where_both_are_away_nothing_is_said_to_be_stored(
    stores: Stores, first: S3Server, second: S3Server
) -> None:
    assert stores.secondary is not None
    stores.secondary = ObjectStore.at(
        settings("127.0.0.1:1", second.address).primary, stores.primary._patience
    )
    with frozen(first):
        for _ in range(2):  # the breaker closed, then open
            with pytest.raises(UnavailableError):
                stores.put(KEY, b"picture", "image/png")


def test_what_went_to_the_second_store_is_copied_back_and_then_moved(
    stores: Stores, first: S3Server
) -> None:
    film = Random(1).randbytes(PART_BYTES * 2 + 5)
    with frozen(first):
        picture = stores.put(KEY, b"picture", "image/png")
        clip = stores.put_stream(KEY.replace("png", "mp4"), lambda: [film], "video/mp4").key
        brought = stores.put("inputs/local/abc.png", b"brought", "image/png")
        stores.put("checkpoints/local/g", b"step 3", "application/x-npz")
        copy_back = CopyBack(stores, 60)
        assert copy_back.round() == (0, 0)  # not while the first is left alone
    until(lambda: not stores.is_open)
    moved = {picture, clip, brought}

    assert copy_back.round() == (3, 0)
    assert keys(stores.primary) - {KEY} == moved  # what timed out may have been taken in the end
    assert stores.primary.get(clip) == film
    found = stores.primary.find(clip)
    assert found is not None and found.content_type == "video/mp4"
    assert copy_back.round() == (0, 0)  # too young to be deleted where URLs may point to
    assert keys(stores.secondary) == moved | {"checkpoints/local/g"}
    url, _ = stores.presign(picture, 60)

    at_once = CopyBack(stores, 0, kept=timedelta(seconds=-60))
    assert at_once.round() == (0, 3)
    assert keys(stores.secondary) == {"checkpoints/local/g"}
    assert (fetched(stores, picture), fetched(stores, clip)) == (b"picture", film)
    assert (stores.get(picture), stores.get(brought)) == (b"picture", b"brought")
    assert not stores.calls_to_presign(picture)  # it is known by now
    assert url.split("?")[0] != stores.presign(picture, 60)[0].split("?")[0]


def test_what_the_stores_do_not_agree_on_is_touched_by_nobody(stores: Stores) -> None:
    assert stores.secondary is not None
    stores.primary.put(in_secondary(KEY), b"torn", "image/png")
    stores.secondary.put(in_secondary(KEY), b"whole picture", "image/png")
    assert CopyBack(stores, 0, kept=timedelta(seconds=-60)).round() == (0, 0)
    assert stores.secondary.get(in_secondary(KEY)) == b"whole picture"


def test_copying_goes_on_where_it_was_cut_off(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stores.secondary is not None
    names = [in_secondary(KEY.replace("0.png", f"{index}.png")) for index in range(4)]
    for name in names:
        stores.secondary.put(name, name.encode(), "image/png")
    real, left = stores.primary.put_stream, 2

    def cut(*given: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise UnavailableError("the object store is away")
        return real(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(stores.primary, "put_stream", cut)
        with pytest.raises(UnavailableError):
            CopyBack(stores, 60).round()
    assert len(keys(stores.primary)) == 2
    assert CopyBack(stores, 60).round() == (2, 0)
    assert all(stores.primary.get(name) == name.encode() for name in names)


def test_pages_have_everything_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atelier.object_store.PAGE_KEYS", 3)
    names = sorted(KEY.replace("0.png", f"{index}.png") for index in range(7))
    for name in names:
        stores.primary.put(name, b"x", "image/png")
    pages = [[one.key for one in page] for page in stores.primary.pages("results/")]
    assert pages == [names[:3], names[3:6], names[6:]]
    assert list(stores.primary.pages("nothing/")) == []


def test_the_metrics_tell_which_store_is_used(stores: Stores, first: S3Server) -> None:
    address = free_address()

    away, writes = (
        "atelier_object_store_primary_away",
        "atelier_object_store_secondary_writes_total",
    )

    def told() -> dict[str, float]:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.split() for line in lines if line.startswith((away, writes)))
        return {name.partition("{")[0]: float(value) for name, value in pairs}

    with exported("test", address) as meter:
        stores.measure(meter)
        assert told() == {away: 0, writes: 0}
        with frozen(first):
            stores.put(KEY, b"picture", "image/png")
            stores.put(KEY, b"picture", "image/png")
            assert told() == {away: 1, writes: 2}
        until(lambda: not stores.is_open)
        assert told() == {away: 0, writes: 2}


def test_two_stores_that_are_one_are_refused() -> None:
    with pytest.raises(ValidationError, match="name another store"):
        settings("127.0.0.1:1", "127.0.0.1:1")
    settings("127.0.0.1:1", "127.0.0.1:1", s3_secondary_bucket="another")
