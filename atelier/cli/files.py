"""Where results are written to, and how."""

from __future__ import annotations

import os
import re
from pathlib import Path

from atelier.cli.problems import ProblemError
from atelier.v1 import generation_pb2

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/avif": ".avif",
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


def format_of(out: Path) -> str:
    """The format that a file's name asks for; empty where it asks for none that we know."""
    names = {suffix: media.partition("/")[2] for media, suffix in SUFFIXES.items()}
    return "" if is_folder(out) else names.get(out.suffix.lower(), "")


def make_folder(out: Path) -> None:
    """The folder that results for `out` will lie in.

    Raises:
        ProblemError: it cannot be made, or not written to.
    """
    folder = out if is_folder(out) else out.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error.strerror) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _cannot_write(folder, "it is not yours")


def write(path: Path, content: bytes) -> None:
    """The whole file or nothing of it.

    Raises:
        ProblemError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise _cannot_write(path, error.strerror) from error


def slug(prompt: str) -> str:
    """A prompt as a file's name."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:_SLUG_LENGTH].rstrip("-") or "picture"


def _cannot_write(path: Path, why: str | None) -> ProblemError:
    return ProblemError([f"cannot write to {path}: {why or 'no reason was given'}", "try --out"])


def _suffix(out: Path, result: generation_pb2.Result) -> str:
    if not is_folder(out):
        return out.suffix
    return SUFFIXES.get(result.content_type, ".bin")
