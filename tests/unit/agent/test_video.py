"""Frames become files that players read: facts by PyAV, and what is seen in them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import av
import numpy as np
import pytest

from agent import video
from atelier.output import VideoFormat
from exporters.tiny.video_checker import read_clip
from exporters.tiny.video_scenes import Clip, render_clip

CLIP = Clip("triangle", "yellow", "purple", "up")
FORMATS = [(VideoFormat.MP4, "h264", "mp4"), (VideoFormat.WEBM, "vp9", "webm")]


def frames(count: int = 8, height: int = 64, width: int = 96) -> np.ndarray:  # type: ignore[type-arg]
    """A bright bar that goes right on a ground that is not flat."""
    ground = np.random.default_rng(1).integers(0, 90, (height, width, 3), dtype=np.uint8)
    made = np.repeat(ground[np.newaxis], count, axis=0)
    for number in range(count):
        made[number, :, (5 * number) % width : (5 * number) % width + 9] = (250, 200, 30)
    return made


@pytest.mark.parametrize(("format_", "codec", "name"), FORMATS)
def test_a_file_has_the_frames_and_tells_the_truth(
    format_: VideoFormat, codec: str, name: str
) -> None:
    data = b"".join(video.encode(frames(12), 10, format_, {"prompt": "é"}))
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert name in container.format.name
        assert (stream.codec_context.name, stream.average_rate) == (codec, 10)
        assert (stream.width, stream.height, stream.codec_context.pix_fmt) == (96, 64, "yuv420p")
        assert container.duration == 1_200_000  # microseconds
        tags = {key.lower(): value for key, value in container.metadata.items()}
        assert json.loads(tags["comment"]) == {"prompt": "é"}
        assert [frame.time for frame in container.decode(video=0)] == [n / 10 for n in range(12)]
    assert video.encoder_of(format_).codec == codec


@pytest.mark.parametrize("format_", VideoFormat)
def test_what_was_drawn_is_seen_and_in_its_colours(format_: VideoFormat) -> None:
    drawn = render_clip(CLIP)
    data = b"".join(video.encode(drawn, 8, format_, None))
    with av.open(io.BytesIO(data)) as container:
        seen = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        assert "comment" not in {key.lower() for key in container.metadata}
    reading = read_clip(seen)
    assert reading is not None and reading.clip == CLIP
    flat = seen[:, 2, 2].astype(int) - drawn[:, 2, 2]  # of the background
    assert np.abs(flat).max() <= 4, "another colour space than the file tells"


@pytest.mark.parametrize("format_", VideoFormat)
def test_the_same_frames_give_the_same_bytes(format_: VideoFormat) -> None:
    once, again = (b"".join(video.encode(frames(), 8, format_, {"seed": 1})) for _ in range(2))
    assert once == again


def test_bytes_come_while_frames_are_still_encoded() -> None:
    """Fragments of two seconds; x264 looks some frames ahead."""
    asked = 0

    class Watched:
        """Frames that count which was asked for."""

        def __init__(self, made: np.ndarray) -> None:  # type: ignore[type-arg]
            self.made, self.shape = made, made.shape

        def __len__(self) -> int:
            return len(self.made)

        def __iter__(self) -> Iterator[np.ndarray]:  # type: ignore[type-arg]
            nonlocal asked
            for frame in self.made:
                asked += 1
                yield frame

    seen = [
        (asked, len(piece))
        for piece in video.encode(Watched(frames(400)), 4, VideoFormat.MP4, None)  # type: ignore[arg-type]
    ]
    whole = sum(size for _, size in seen)
    assert [at for at, _ in seen] == [*range(1, 401), 400], "a caller can stop after each frame"
    assert min(at for at, size in seen if size) <= 100
    assert sum(size for at, size in seen if at <= 200) > whole / 4
    assert max(size for _, size in seen) < whole / 4


def test_sides_that_cannot_be_coded_are_an_error_of_the_encoder() -> None:
    with pytest.raises((video.EncodingError, ValueError)):
        list(video.encode(frames(height=63, width=95), 8, VideoFormat.MP4, None))


def test_without_its_first_codec_a_build_takes_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def codec(name: str, mode: str) -> object:
        if name in ("libx264", "libvpx-vp9"):
            raise video.UnknownCodecError(name)
        return object()

    monkeypatch.setattr(video, "Codec", codec)
    for format_ in VideoFormat:
        assert video.encoder_of(format_).codec == "av1"
        data = b"".join(video.encode(frames(), 8, format_, None))
        with av.open(io.BytesIO(data)) as container:
            assert len(list(container.decode(video=0))) == 8
            assert "av1" in container.streams.video[0].codec_context.codec.name
