"""Results as bytes and files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import urllib3

from atelier.errors import AtelierError, UnavailableError
from atelier.v1 import generation_pb2 as pb

DOWNLOAD_SECONDS = 60.0


def content(result: pb.Result) -> bytes:
    """A result's file: what came with it, else from its URL; the same as was made, by its hash.

    Raises:
        AtelierError: it was withheld by the model's safety checker, or came damaged.
        UnavailableError: the store does not give it out; a fresh URL comes with GetGeneration.
    """
    if result.withheld:
        raise AtelierError(
            f"result {result.index} was withheld by the safety checker", reason="WITHHELD"
        )
    data = result.inline_data or get(result.url, result.index)
    if hashlib.sha256(data).hexdigest() != result.sha256:
        raise AtelierError(f"result {result.index} was damaged on its way here", reason="DAMAGED")
    return data


def paths(path: Path, generation: pb.Generation) -> list[Path]:
    """Where the results go: `path`, and where there are several path-0, path-1, ..."""
    if len(generation.results) == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{result.index}") for result in generation.results]


def write(path: Path, generation: pb.Generation) -> list[Path]:
    """Write every result; where each lies. What was withheld has no file.

    Raises:
        AtelierError: as `content`; all of it was withheld.
        OSError: it cannot be written there.
    """
    written = []
    for one, result in zip(paths(path, generation), generation.results, strict=True):
        if not result.withheld:
            one.write_bytes(content(result))
            written.append(one)
    if not written:
        raise AtelierError(
            f"all of {generation.id} was withheld by the safety checker", reason="WITHHELD"
        )
    return written


def get(url: str, index: int) -> bytes:
    """What a result's URL gives.

    Raises:
        UnavailableError: the store does not give it out.
    """
    try:
        answer = urllib3.request("GET", url, timeout=DOWNLOAD_SECONDS)
    except urllib3.exceptions.HTTPError as error:
        raise UnavailableError(f"result {index}: {error}") from error
    if answer.status != 200:
        raise UnavailableError(f"result {index}: the store says {answer.status}")
    return answer.data
