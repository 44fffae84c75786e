"""How results are written: file formats and what goes into the files. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class VideoFormat(StrEnum):
    """Container of a video's file; which codec is in it is the agent's to say."""

    MP4 = "MP4"
    WEBM = "WEBM"


@dataclass(frozen=True)
class VideoOutput:
    """How a video's file is written.

    Attributes:
        omit_metadata: leave out of the file how it was made.
    """

    format: VideoFormat = VideoFormat.MP4
    omit_metadata: bool = False


def stored_video_output(values: Mapping[str, Any]) -> VideoOutput:
    """The output of which `values` are the fields, as dataclasses.asdict gave them."""
    return VideoOutput(VideoFormat(values["format"]), values["omit_metadata"])
