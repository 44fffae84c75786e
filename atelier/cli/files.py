"""Where results are written to. Pure, but for asking the disk what is a folder."""

from __future__ import annotations

import re
from pathlib import Path

from atelier.v1 import generation_pb2

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}
_SLUG_LENGTH = 40


def is_folder(out: Path) -> bool:
    """A name without a suffix is a folder's, unless there is a file of that name."""
    return out.is_dir() or (not out.suffix and not out.exists())


def paths(out: Path, prompt: str, generation: generation_pb2.Generation) -> list[Path]:
    """A path for each result: in the folder `out`, or the file `out` (numbered, if several)."""
    results = generation.results
    if is_folder(out):
        # The end of a UUIDv7 is random: the same prompt never overwrites its earlier picture.
        stem, folder = f"{slug(prompt)}-{generation.id[-8:]}", out
    else:
        stem, folder = out.stem, out.parent
    return [
        folder / f"{stem}{f'-{result.index}' if len(results) > 1 else ''}{_suffix(out, result)}"
        for result in results
    ]


def slug(prompt: str) -> str:
    """A prompt as a file's name."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:_SLUG_LENGTH].rstrip("-") or "picture"


def _suffix(out: Path, result: generation_pb2.Result) -> str:
    if not is_folder(out):
        return out.suffix
    return SUFFIXES.get(result.content_type, ".bin")
