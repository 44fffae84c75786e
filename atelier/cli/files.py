"""Where results are written to, and how."""

from __future__ import annotations

import os
import re
from pathlib import Path

from atelier.cli.problems import BAD_INPUT, ProblemError
from atelier.v1 import generation_pb2

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
}
_ALIASES = {".jpeg": ".jpg"}
# Names of pictures and videos that nothing here is written as.
_NOT_MADE = frozenset(
    {".gif", ".apng", ".bmp", ".tif", ".tiff", ".svg", ".heic", ".heif", ".jxl", ".jp2"}
    | {".mov", ".mkv", ".avi", ".m4v", ".mpg", ".mpeg"}
)
_SLUG_LENGTH = 40


def is_folder(out: Path) -> bool:
    """A name without a suffix is a folder's, unless there is a file of that name."""
    return out.is_dir() or (not out.suffix and not out.exists())


def paths(out: Path, prompt: str, generation: generation_pb2.Generation) -> list[Path]:
    """A path for each result: in the folder `out`, or the file `out` (numbered, if several).

    Raises:
        ProblemError: a result is of another format than `out` is called.
    """
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


def small_path(path: Path, result: generation_pb2.Result) -> Path:
    """Where a result's small copy goes: beside it."""
    return path.with_name(f"{path.stem}.small{Path(result.thumbnail_key).suffix}")


def format_of(out: Path) -> str:
    """The format that a file's name asks for; empty where it asks for none that we know."""
    names = {suffix: media.partition("/")[2] for media, suffix in SUFFIXES.items()}
    return "" if is_folder(out) else names.get(_known(out.suffix), "")


def check_format(format_: str, out: Path) -> None:
    """See that what is asked for can be called as `out` is.

    Raises:
        ProblemError: a name like that is of another format.
    """
    named = format_of(out)
    if named and _known(f".{format_}") != _known(f".{named}"):
        line = f"--format {format_} and --out {out}: the name is of another format"
        raise ProblemError([line, "leave out --format, or call the file otherwise"], BAD_INPUT)


def make_folder(out: Path) -> None:
    """The folder that results for `out` will lie in.

    Raises:
        ProblemError: it cannot be made, or not written to; or `out` is called as nothing is.
    """
    if not is_folder(out) and out.suffix.lower() in _NOT_MADE:
        known = ", ".join(SUFFIXES.values())
        raise ProblemError([f"--out {out}: nothing is made so", f"say {known}"], BAD_INPUT)
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
    suffix = SUFFIXES.get(result.content_type, ".bin")
    if is_folder(out):
        return suffix
    if format_of(out) and _known(out.suffix) != suffix and not result.withheld:
        line = f"result {result.index} is {result.content_type}, and {out} would say otherwise"
        raise ProblemError([line, f"try --out {out.with_suffix(suffix)}"])
    return out.suffix


def _known(suffix: str) -> str:
    """As SUFFIXES spells it."""
    return _ALIASES.get(suffix.lower(), suffix.lower())
