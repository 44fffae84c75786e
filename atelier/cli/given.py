"""What a person gives on the command line beside numbers: pictures, crops and sizes."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from atelier.cli.problems import BAD_INPUT, ProblemError
from atelier.pictures import MAX_PICTURE_BYTES
from atelier.v1 import generation_pb2

_KEYS = ("results/", "inputs/")
_PIXELS = r"\d{1,9}"  # what a message's field has room for
_CROP = re.compile(rf"({_PIXELS})x({_PIXELS})\+({_PIXELS})\+({_PIXELS})")
_RESIZE = re.compile(rf"({_PIXELS})?x({_PIXELS})?")


def picture(option: str, text: str) -> generation_pb2.InputImage | None:
    """The file of that name, to be sent; else the object of that key; None where nothing is given.

    Raises:
        ProblemError: it is neither, or a file that cannot be sent.
    """
    if not text:
        return None
    path = Path(text)
    if text.startswith(_KEYS) and not path.exists():
        return generation_pb2.InputImage(object_key=text)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PICTURE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it has no such name"
        lines = [
            f"{option} {text}: {why}",
            "give a picture's file, or a key (results/..., inputs/...)",
        ]
        raise ProblemError(lines, BAD_INPUT) from error
    if len(data) > MAX_PICTURE_BYTES:
        line = f"{option} {text}: has more than {MAX_PICTURE_BYTES // 2**20} MiB"
        raise ProblemError([f"{line}: scale it down, or save it as JPEG"], BAD_INPUT)
    return generation_pb2.InputImage(data=data)


def crop(text: str | None) -> generation_pb2.Crop | None:
    """WIDTHxHEIGHT+X+Y: the size of a part, and where it begins."""
    if text is None:
        return None
    if (found := _CROP.fullmatch(text.lower())) is None:
        raise typer.BadParameter(f"--crop {text}: say 400x300+20+10, WIDTHxHEIGHT+LEFT+TOP")
    width, height, x, y = map(int, found.groups())
    return generation_pb2.Crop(x=x, y=y, width=width, height=height)


def resize(text: str | None) -> generation_pb2.Resize | None:
    """WIDTHxHEIGHT, or WIDTHx or xHEIGHT where the other side follows."""
    if text is None:
        return None
    found = _RESIZE.fullmatch(text.lower())
    if found is None or found.groups() == (None, None):
        line = f"--resize {text}: say 400x300, or 400x or x300 to keep the proportions"
        raise typer.BadParameter(line)
    width, height = (int(side) if side else None for side in found.groups())
    return generation_pb2.Resize(width=width, height=height)
