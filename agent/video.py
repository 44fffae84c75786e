"""Frames to the bytes of a video's file, as they come: no file is ever whole in here.

MP4 is fragmented: its header is written before the first frame and needs no correction at the end,
so that the first bytes can be uploaded while later frames are encoded. WebM is written as a live
stream is, with the length told beforehand.

The best codec that PyAV's build has is taken. The same frames give the same bytes on every machine:
one thread encodes one video (many videos are what keeps cores busy), and FFmpeg's "bitexact" leaves
out the random id that it would give each file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from atelier.output import VideoFormat

EncodingError = av.FFmpegError
KEYFRAME_SECONDS = 2  # a fragment begins at each, and so does a jump of a player


@dataclass(frozen=True)
class Encoder:
    """An encoder of FFmpeg's, what its codec is called, and its settings."""

    library: str
    codec: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Container:
    """A kind of file: its muxer and settings, and encoders in order of preference."""

    content_type: str
    suffix: str
    muxer: str
    options: Mapping[str, str]
    encoders: tuple[Encoder, ...]


# Constant quality, near to what an eye cannot tell from the frames.
# No B-frames in MP4: a header written ahead cannot say by how much they put the first frame off.
_H264 = Encoder("libx264", "h264", {"crf": "17", "preset": "veryfast", "bf": "0"})
_AV1 = Encoder("libsvtav1", "av1", {"crf": "20", "preset": "8", "svtav1-params": "lp=1"})
_VP9 = Encoder("libvpx-vp9", "vp9", {"crf": "15", "b:v": "0", "deadline": "good", "cpu-used": "4"})
CONTAINERS = {
    VideoFormat.MP4: Container(
        "video/mp4",
        "mp4",
        "mp4",
        {"movflags": "frag_keyframe+empty_moov+default_base_moof", "fflags": "+bitexact"},
        (_H264, _AV1, _VP9),
    ),
    VideoFormat.WEBM: Container(
        "video/webm", "webm", "webm", {"fflags": "+bitexact"}, (_VP9, _AV1)
    ),
}


def encoder_of(format_: VideoFormat) -> Encoder:
    """The best that this build has.

    Raises:
        LookupError: it has none for this format.
    """
    for encoder in CONTAINERS[format_].encoders:
        try:
            Codec(encoder.library, "w")
        except UnknownCodecError:
            continue
        return encoder
    raise LookupError(f"this build of PyAV encodes nothing that {format_} may hold")


def encode(
    frames: NDArray[np.uint8],
    frames_per_second: int,
    format_: VideoFormat,
    metadata: Mapping[str, Any] | None,
) -> Iterator[bytes]:
    """The file's bytes: a piece after each frame, mostly empty, so that a caller can stop there.

    Args:
        frames: uint8 (T, H, W, 3), H and W even.
        metadata: goes into the file's comment as JSON; None: no comment.

    Raises:
        LookupError: this build has no encoder for the format.
        EncodingError: the encoder failed.
    """
    kind, encoder = CONTAINERS[format_], encoder_of(format_)
    sink = _Sink()
    with av.open(sink, "w", format=kind.muxer, options=dict(kind.options)) as container:
        if metadata is not None:
            container.metadata["comment"] = json.dumps(metadata, ensure_ascii=False)
        stream = cast(VideoStream, container.add_stream(encoder.library, rate=frames_per_second))
        _, stream.height, stream.width, _ = frames.shape
        stream.pix_fmt = "yuv420p"
        stream.options = dict(encoder.options)
        stream.metadata["DURATION"] = _clock_time(Fraction(len(frames), frames_per_second))
        context = stream.codec_context
        context.thread_count = 1
        context.gop_size = KEYFRAME_SECONDS * frames_per_second
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        context.color_range = ColorRange.MPEG
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, frames_per_second)
            yuv = frame.reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            container.mux(stream.encode(yuv))
            yield sink.taken()
        container.mux(stream.encode(None))
    yield sink.taken()


class _Sink(io.RawIOBase):
    """Where FFmpeg writes; it cannot go back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last look."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _clock_time(seconds: Fraction) -> str:
    """HH:MM:SS.nnnnnnnnn, as Matroska's DURATION tag has it."""
    whole, part = divmod(seconds.numerator * 10**9 // seconds.denominator, 10**9)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{part:09}"
