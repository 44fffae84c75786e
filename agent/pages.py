"""Files in the kernel's page cache: how much of one is there, and holding it there.

`mincore` tells what is there, in truth, of files that we own or may write. Of others the kernel
says that all is (to give nothing away of what other users read), so there only a lock is believed.
A lock may be refused (RLIMIT_MEMLOCK: containers are often given 8 MiB); the file was read then,
and stays for as long as nobody needs the memory more.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_libc = ctypes.CDLL(None, use_errno=True)

READ_BYTES = 8 * 2**20  # between two looks at whether the file is still wanted


class Mapping:
    """A file mapped into memory, nothing of it read. Not for empty files."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be read."""
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.fstat(self._file)
            self.bytes = stat.st_size
            self.identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            self._told_truly = stat.st_uid == os.geteuid() or os.access(path, os.W_OK)
            self._memory = mmap.mmap(self._file, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        except BaseException:
            os.close(self._file)
            raise
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._memory, dtype=np.uint8)
        self.locked = False

    @property
    def is_current(self) -> bool:
        """Whether the file is still the one that was mapped."""
        with suppress(OSError):
            stat = self.path.stat()
            return self.identity == (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        return False

    def read(self, offset: int) -> int:
        """Have READ_BYTES from `offset` on read from disk; where they end."""
        return offset + len(os.pread(self._file, READ_BYTES, offset))

    def lock(self) -> bool:
        """Keep what is there from being given up; False where we may not."""
        self.locked = self.locked or not _libc.mlock(*self._place)
        return self.locked

    def resident_bytes(self) -> int:
        """How much of it is in memory."""
        if self.locked:
            return self.bytes
        if not self._told_truly:
            return 0
        page = mmap.PAGESIZE
        pages: NDArray[np.uint8] = np.zeros(-(-self.bytes // page), dtype=np.uint8)
        if _libc.mincore(*self._place, pages.ctypes.data_as(ctypes.c_void_p)):
            return 0
        there = pages & 1
        last = self.bytes - (len(pages) - 1) * page
        return int(there[:-1].sum()) * page + int(there[-1]) * last

    def close(self) -> None:
        """Let go of it; the kernel may give it up when it needs the memory."""
        del self._bytes  # a lock ends with its mapping
        self._memory.close()
        os.close(self._file)

    @property
    def _place(self) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
        return ctypes.c_void_p(self._bytes.ctypes.data), ctypes.c_size_t(self.bytes)


def allow_locks() -> None:
    """Raise our own limit of locked memory as far as we may."""
    with suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def all_in_memory(paths: list[Path]) -> bool:
    """Whether every byte of these files is in memory; False where that cannot be known."""
    try:
        for path in paths:
            mapping = Mapping(path)
            try:
                if mapping.resident_bytes() < mapping.bytes:
                    return False
            finally:
                mapping.close()
    except OSError:
        return False
    return bool(paths)
