"""How a model gets into the repository: by renames, its card last.

A model is built in a folder beside the repository and moved in when it is whole: neither Triton nor
a catalogue ever sees half of one. In place of an older model of its name it comes by several
renames, the older card gone before the first and the new one there after the last, so at no moment
does a card name a file that is not its own. A kill in between leaves folders without a card and,
in the folder of what was built, a note of what was under way, by which the next command finishes it
(recover). Forwards, because all of the new model is there and the older may be half gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from atelier.catalog import ModelCard
from exporters.repository import drop, folders_of

_NOTE = ".publishing"  # locked while somebody moves
_ASIDE = ".old"


@contextmanager
def building(root: Path) -> Iterator[Path]:
    """A folder to build a model in; it stays only if moving it in was interrupted, for recover."""
    built = Path(tempfile.mkdtemp(prefix=".ready-", dir=root))
    try:
        yield built
    finally:
        if not (built / _NOTE).exists():
            shutil.rmtree(built, ignore_errors=True)


def publish(built: Path, repository: Path, card_file: str) -> None:
    """Move a whole model from `built` into the repository, in place of an older one.

    Every folder of `built` is moved, then its card. Whatever the older model had and this has not
    goes, unless another model names it.
    """
    repository.mkdir(parents=True, exist_ok=True)
    card = repository / card_file
    old = ModelCard.parse(card.read_text()) if card.is_file() else None
    new = ModelCard.parse((built / card_file).read_text())
    left = sorted(set(folders_of(old)) - set(folders_of(new))) if old else []
    said = {"repository": str(repository.resolve()), "card": card_file, "left": left}
    note = built / _NOTE
    with note.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(said))
        file.flush()
        os.fsync(file.fileno())
        _move_in(built, repository, card_file, left)


def recover(repository: Path, keep: Path | None = None) -> list[str]:
    """Finish what was being published into the repository when its process was killed.

    Args:
        keep: the stages of an export that is about to go on; those of others are not needed more.

    Returns:
        the cards that are there now. What another process is about to publish is left to it.
    """
    finished = []
    beside = repository.resolve().parent
    for note in sorted(beside.glob(f".export-*/*/{_NOTE}")):
        with note.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                said = json.loads(file.read())
            except (BlockingIOError, ValueError):  # at work, or killed before it moved anything
                continue
            if said["repository"] != str(repository.resolve()) or not note.exists():
                continue  # another's, or its owner has just ended
            _move_in(note.parent, repository, said["card"], said["left"])
        stages = note.parent.parent
        shutil.rmtree(note.parent if stages == keep else stages, ignore_errors=True)
        finished.append(said["card"])
    return finished


def _move_in(built: Path, repository: Path, card_file: str, left: Sequence[str]) -> None:
    """The renames, from wherever they stopped: what `built` still has is not yet in."""
    aside = built / _ASIDE
    aside.mkdir(exist_ok=True)
    if (built / card_file).exists():
        (repository / card_file).unlink(missing_ok=True)
        for folder in sorted(path for path in built.iterdir() if path.is_dir() and path != aside):
            target = repository / folder.name
            if target.exists():
                target.rename(aside / folder.name)
            folder.rename(target)
        (built / card_file).rename(repository / card_file)
    drop(repository, set(left))
    _flush(repository)
    (built / _NOTE).unlink()
    shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """The renames are on the disk before anybody is told."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
