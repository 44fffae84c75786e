"""Pictures are looked at, then kept, and never more of them than there is room for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from atelier.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from atelier.v1 import generation_pb2 as pb
from gateway.inputs import SMALL_BYTES, THREADS, Inputs
from gateway.specs import Picture
from tests.support.hostile import HOSTILE, picture, saved

FILE = saved(picture(), "PNG")


class Bucket:
    """A store in memory; `gate` holds up its answers while it is not set."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.away = False
        self.gate = threading.Event()
        self.gate.set()
        self.within = self.most_within = 0
        self.crowded = threading.Event()  # as many calls as there are threads
        self._lock = threading.Lock()

    def _enter(self, call: str) -> None:
        with self._lock:
            self.calls.append(call)
            self.within += 1
            self.most_within = max(self.most_within, self.within)
            if self.within == THREADS:
                self.crowded.set()
        self.gate.wait(10)
        with self._lock:
            self.within -= 1
        if self.away:
            raise UnavailableError("the object store is away")

    def has(self, key: str) -> bool:
        self._enter("has")
        return key in self.objects

    def get(self, key: str, *, most_bytes: int | None = None) -> bytes:
        self._enter("get")
        if key not in self.objects:
            raise NotFoundError("no such object")
        return self.objects[key][:most_bytes]

    def put(self, key: str, data: bytes, content_type: str) -> None:
        self._enter("put")
        self.objects[key] = data


def brought(data: bytes = FILE, path: str = "image.init_image") -> Picture:
    return Picture(path, "inputs/local/x.png", data, "image/png")


async def test_a_good_picture_is_kept_once() -> None:
    bucket = Bucket()
    inputs = Inputs(bucket)
    assert await inputs.take([brought()], keep=True) == []
    assert bucket.objects == {"inputs/local/x.png": FILE}
    assert await inputs.take([brought()], keep=True) == []
    assert bucket.calls == ["has", "put", "has"]


async def test_nothing_is_kept_where_anything_is_wrong() -> None:
    bucket = Bucket()
    inputs = Inputs(bucket)
    bad = brought(HOSTILE["cut png"], "image.mask_image")
    [violation] = await inputs.take([brought(), bad], keep=True)
    assert violation.field == "image.mask_image" and "corrupt" in violation.description
    assert await inputs.take([brought()], keep=False) == []
    assert bucket.calls == []


async def test_what_a_key_names_is_looked_at_and_not_stored_again() -> None:
    bucket = Bucket()
    inputs = Inputs(bucket)
    key = Picture("image.init_image", "results/local/g/1/0.png")
    assert await inputs.take([key], keep=True) == [key.not_there]
    bucket.objects[key.key] = FILE
    assert await inputs.take([key], keep=True) == []
    bucket.objects[key.key] = HOSTILE["too many bytes"]
    [violation] = await inputs.take([key], keep=True)
    assert "more than 8 MiB" in violation.description
    assert "put" not in bucket.calls


async def test_a_store_that_is_away_is_no_fault_of_the_caller() -> None:
    bucket = Bucket()
    bucket.away = True
    with pytest.raises(UnavailableError):
        await Inputs(bucket).take([brought(), brought()], keep=True)


async def test_only_two_are_looked_at_at_once() -> None:
    bucket = Bucket()
    inputs = Inputs(bucket)
    bucket.gate.clear()
    taking = [asyncio.create_task(inputs.take([brought()], keep=True)) for _ in range(9)]
    await asyncio.to_thread(bucket.crowded.wait, 10)
    gone = taking.pop()
    gone.cancel()  # its caller
    await asyncio.gather(gone, return_exceptions=True)
    bucket.gate.set()
    assert await asyncio.gather(*taking) == [[]] * 8
    assert bucket.most_within == THREADS


async def test_nobody_waits_for_ever_for_a_store_that_hangs() -> None:
    bucket = Bucket()
    inputs = Inputs(bucket, patience_seconds=0.05)
    bucket.gate.clear()
    taking = [inputs.take([brought()], keep=True) for _ in range(2 * THREADS)]
    for gone in await asyncio.gather(*taking, return_exceptions=True):
        assert isinstance(gone, UnavailableError)
        assert gone.retry_after_seconds
    with pytest.raises(UnavailableError):  # for want of a thread
        await inputs.read(request(SMALL_BYTES), threading.get_ident)
    bucket.gate.set()
    patient = Inputs(bucket)
    assert await patient.take([brought()], keep=True) == []


def request(size: int) -> pb.GenerateRequest:
    """Of about so many bytes."""
    request = pb.GenerateRequest()
    request.create.image.init_image.data = bytes(size)
    return request


async def test_only_so_much_is_held_at_once() -> None:
    large, small = request(2 * SMALL_BYTES), request(SMALL_BYTES - 100)
    inputs = Inputs(Bucket(), held_bytes=2 * large.ByteSize())
    with inputs.room_for(large), suppress(ZeroDivisionError), inputs.room_for(large):
        with pytest.raises(ResourceExhaustedError) as refused, inputs.room_for(large):
            pytest.fail("no room")
        assert refused.value.retry_after_seconds
        for _ in range(100):
            with inputs.room_for(small):  # prompts need no room
                pass
        raise ZeroDivisionError
    with inputs.room_for(large), inputs.room_for(large):
        pass


async def test_large_requests_are_read_in_a_thread() -> None:
    inputs = Inputs(Bucket())
    here = threading.get_ident()
    assert await inputs.read(request(10), threading.get_ident) == here
    assert await inputs.read(request(SMALL_BYTES), threading.get_ident) != here
