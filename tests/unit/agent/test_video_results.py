"""A video is uploaded while it is encoded, and leaves nothing behind where it is not wanted."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from agent.results import Results, object_key
from agent.work import Attempt, AttemptCancelledError, Work
from atelier.errors import ExecutionError, UnavailableError
from atelier.generation import Result
from atelier.object_store import Stored
from atelier.output import VideoFormat, VideoOutput
from atelier.spec import VideoSpec
from tests.support.cards import video_card

CARD = video_card()


class StreamStore:
    """Takes a stream piece by piece; an object is there when all of it was taken."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, bytes]] = {}
        self.pieces: list[int] = []
        self.breaks_at: int | None = None  # of the first try
        self.tries = 0

    def put(self, key: str, data: bytes, content_type: str) -> str:
        assert content_type == "image/jpeg", "a video is streamed"
        self.objects[key] = (content_type, data)
        return key

    def put_stream(
        self, key: str, pieces: Callable[[], Iterable[bytes]], content_type: str
    ) -> Stored:
        while True:
            self.tries += 1
            taken = b""
            for number, piece in enumerate(pieces()):
                if self.tries == 1 and number == self.breaks_at:
                    break
                taken += piece
                self.pieces.append(len(piece))
            else:
                self.objects[key] = (content_type, taken)
                return Stored(len(taken), hashlib.sha256(taken).hexdigest(), key)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


def work(**output: Any) -> Work:
    spec = VideoSpec("a film", "", 64, 64, 5, 1.5, 7, 8, 4, "ddim", VideoOutput(**output))
    return Work(Attempt("gen-1", 3, "cpu-0"), "local", "clips", spec)


def frames(count: int = 8, height: int = 64) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(2).integers(0, 255, (count, height, 64, 3), dtype=np.uint8)


async def publish(
    store: StreamStore,
    of: Work,
    made: np.ndarray | None = None,  # type: ignore[type-arg]
    cancelled: Callable[[], bool] = lambda: False,
    encoded: Callable[[float], object] = lambda _: None,
) -> Result:
    results = Results(store)
    try:
        clip = frames() if made is None else made
        [result] = await results.publish(of, CARD, clip[np.newaxis], cancelled, encoded=encoded)
        return result
    finally:
        results.close()


@pytest.mark.parametrize(
    ("format_", "content_type", "codec"),
    [(VideoFormat.MP4, "video/mp4", "h264"), (VideoFormat.WEBM, "video/webm", "vp9")],
)
async def test_the_result_tells_what_was_stored(
    format_: VideoFormat, content_type: str, codec: str
) -> None:
    store, of = StreamStore(), work(format=format_)
    result = await publish(store, of)
    assert result.object_key == f"results/local/gen-1/3/0.{format_.lower()}" == object_key(of, 0)
    stored_type, data = store.objects[result.object_key]
    assert (stored_type, result.content_type) == (content_type, content_type)
    assert (result.size_bytes, result.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (result.frames, result.frames_per_second, result.codec) == (8, 4, codec)
    assert (result.width, result.height, result.seed) == (64, 64, 7)
    with av.open(io.BytesIO(data)) as container:
        told = {key.lower(): value for key, value in container.metadata.items()}["comment"]
    assert json.loads(told)["prompt"] == "a film"
    assert json.loads(told)["model_version"] == CARD.version


async def test_nothing_is_told_of_how_it_was_made_where_nobody_wants_that() -> None:
    store = StreamStore()
    result = await publish(store, work(omit_metadata=True))
    data = store.objects[result.object_key][1]
    assert b"a film" not in data and b"ddim" not in data


async def test_a_small_picture_of_the_first_frame_lies_beside_it() -> None:
    store, clip = StreamStore(), frames()
    clip[0], clip[0, :, 32:] = (200, 30, 30), (30, 30, 200)
    result = await publish(store, work(thumbnail_size=16), clip)
    assert result.thumbnail_key == "results/local/gen-1/3/0.small.jpg"
    kind, data = store.objects[result.thumbnail_key]
    image = Image.open(io.BytesIO(data))
    assert (kind, image.format, image.size) == ("image/jpeg", "JPEG", (16, 16))
    left, right = image.getpixel((2, 8)), image.getpixel((13, 8))
    assert left[0] > 150 > left[2] and right[2] > 150 > right[0]


async def test_a_film_whose_small_picture_was_not_taken_is_swept() -> None:
    class Half(StreamStore):
        def put(self, key: str, data: bytes, content_type: str) -> str:
            super().put(key, data, content_type)
            raise UnavailableError("the object store is away")

    store = Half()
    results = Results(store)
    with pytest.raises(ExecutionError):
        await results.publish(work(thumbnail_size=16), CARD, frames()[np.newaxis], lambda: False)
    await asyncio.to_thread(results._threads.shutdown)
    assert not store.objects


async def test_neither_the_frames_nor_the_file_are_ever_whole_a_second_time() -> None:
    class Sink(StreamStore):
        def put_stream(
            self, key: str, pieces: Callable[[], Iterable[bytes]], content_type: str
        ) -> Stored:
            return Stored(sum(len(piece) for piece in pieces()), "", key)

    clip = np.random.default_rng(2).integers(0, 255, (64, 256, 256, 3), dtype=np.uint8)  # 12.6 MB
    tracemalloc.start()
    try:
        result = await publish(Sink(), work(thumbnail_size=64), clip)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.size_bytes > 3 * 2**20  # of noise: a file that was whole would show
    assert peak < 2 * 2**20


async def test_a_broken_upload_begins_again_with_the_first_frame() -> None:
    store, whole = StreamStore(), StreamStore()
    store.breaks_at = 30
    result = await publish(store, work(), frames(40))
    assert store.tries == 2
    assert store.objects == {result.object_key: ("video/mp4", store.objects[result.object_key][1])}
    assert (await publish(whole, work(), frames(40))).sha256 == result.sha256


async def test_a_cancel_is_heard_between_two_frames() -> None:
    store = StreamStore()
    with pytest.raises(AttemptCancelledError):
        await publish(store, work(), frames(200), cancelled=lambda: len(store.pieces) >= 3)
    assert len(store.pieces) == 3 and not store.objects


async def test_what_cannot_be_encoded_fails_for_good() -> None:
    with pytest.raises(ExecutionError) as failed:
        await publish(StreamStore(), work(), frames(height=63))
    assert (failed.value.reason, failed.value.retryable) == ("ENCODING_FAILED", False)


async def test_a_store_that_is_away_is_another_attempt_s() -> None:
    class Away(StreamStore):
        def put_stream(self, *_: Any) -> Stored:
            raise UnavailableError("the object store is away")

    with pytest.raises(ExecutionError) as failed:
        await publish(Away(), work())
    assert (failed.value.reason, failed.value.retryable) == ("UPLOAD_FAILED", True)


async def test_a_store_that_is_slow_is_no_time_of_encoding() -> None:
    class Slow(StreamStore):
        def put_stream(
            self, key: str, pieces: Callable[[], Iterable[bytes]], content_type: str
        ) -> Stored:
            def slowly() -> Iterable[bytes]:
                for piece in pieces():
                    time.sleep(0.3)
                    yield piece

            return super().put_stream(key, slowly, content_type)

    told: list[float] = []
    began = time.perf_counter()
    await publish(Slow(), work(), frames(40), encoded=told.append)
    took = time.perf_counter() - began
    assert len(told) >= 2
    assert 0 < sum(told) <= took - 0.3 * len(told)
