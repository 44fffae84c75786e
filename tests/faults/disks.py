"""Disks of a run's own that can be filled: a file system each, in a sparse file, in mounts that
only this process and its children see, and that end with them. For root, on Linux."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

# The object store reckons with volumes of 1 GiB, of which it wants several.
GIGABYTES = {"state": 2, "postgres": 2, "s3": 20}
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS


def own_mounts() -> bool:
    """From here on, mounts of this process are its own. To be called before it has threads that
    matter. False where that is not allowed: there are no such faults then."""
    if ctypes.CDLL(None).unshare(_NEW_MOUNTS) != 0:
        return False
    return _done("mount", "--make-rprivate", "/")


@dataclass(frozen=True)
class Disk:
    """A file system at `folder`."""

    folder: Path

    @classmethod
    def at(cls, folder: Path, image: Path, gigabytes: int) -> Disk:
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(gigabytes * 2**30)
        made = _done("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        if not (made and _done("mount", "-o", "loop", str(image), str(folder))):
            raise OSError(errno.EPERM, f"no disk could be made at {folder}")
        folder.chmod(0o711)
        return cls(folder)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        """Until no block is left."""
        with self._ballast.open("wb") as ballast:
            room = os.statvfs(self.folder)
            os.posix_fallocate(ballast.fileno(), 0, int(room.f_bavail * room.f_bsize * 0.98))
            ballast.seek(0, os.SEEK_END)
            for block in (2**20, 2**16, 2**12):
                try:
                    while True:
                        os.write(ballast.fileno(), bytes(block))
                        os.fsync(ballast.fileno())
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """When nobody works there any more."""
        _done("umount", str(self.folder))


def make_disks(state: Path, images: Path) -> dict[str, Disk]:
    """One for the whole state folder, and in it one each for the database and the objects."""
    where = {"state": state, "postgres": state / "postgres", "s3": state / "s3"}
    return {
        name: Disk.at(folder, images / f"{name}.img", GIGABYTES[name])
        for name, folder in where.items()
    }


def _done(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False
