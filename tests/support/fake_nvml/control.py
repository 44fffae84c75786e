"""The other end of the fake driver: tests say what it tells, toy models what they hold.

Imported by tests, and by the toy models inside Triton: standard library only. The structures are
nvml.c's, field by field.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_uint32, c_uint64
from pathlib import Path
from typing import Any

GPUS, INSTANCES, ACCOUNTS = 8, 7, 8
GPU_IS_LOST = 15
ALL_INSTANCES = 0xFFFFFFFF


class Account(ctypes.Structure):
    """What a process holds."""

    _fields_ = (("pid", c_uint32), ("unused", c_uint32), ("bytes", c_uint64))


class Instance(ctypes.Structure):
    """A MIG instance."""

    _fields_ = (("total", c_uint64), ("used", c_uint64), ("gpu", c_uint32), ("id", c_uint32))


class Gpu(ctypes.Structure):
    """A GPU; what is written here is what the driver says from then on."""

    _fields_ = (
        ("total", c_uint64), ("base", c_uint64), ("leak", c_uint64), ("ecc", c_uint64),
        ("index", c_uint32), ("utilisation", c_uint32), ("temperature", c_uint32),
        ("milliwatts", c_uint32), ("error", c_uint32), ("slow_ms", c_uint32), ("plain", c_uint32),
        ("xids", c_uint32), ("xid", c_uint32), ("xid_instance", c_uint32),
        ("instances", c_uint32), ("unused", c_uint32),
        ("accounts", Account * ACCOUNTS), ("mig", Instance * INSTANCES),
    )  # fmt: skip

    def raise_xid(self, code: int, instance: int = ALL_INSTANCES) -> None:
        """The driver tells of an error."""
        self.xid, self.xid_instance = code, instance
        self.xids += 1


class Script(ctypes.Structure):
    """All that the driver knows; `calls` counts those about a device."""

    _fields_ = (
        ("count", c_uint32), ("init_error", c_uint32), ("init_slow_ms", c_uint32),
        ("calls", c_uint32), ("gpus", Gpu * GPUS),
    )  # fmt: skip


class FakeDriver:
    """The script in a file, seen by every process that opens it."""

    def __init__(self, path: Path, gpus: int = 0) -> None:
        """`gpus`: begin a new script of so many, each of 24 GiB, 300 MiB in use."""
        self.path = path
        if gpus:
            path.write_bytes(bytes(ctypes.sizeof(Script)))
        self._file = os.open(path, os.O_RDWR)
        self._memory = mmap.mmap(self._file, 0)
        self.script = Script.from_buffer(self._memory)
        for index in range(gpus):
            gpu = self.gpus[index]
            gpu.index, gpu.total, gpu.base = index, 24 << 30, 300 << 20
            gpu.temperature, gpu.milliwatts = 40, 55_000
        self.script.count = self.script.count or gpus

    @property
    def gpus(self) -> Any:
        return self.script.gpus

    def split(self, index: int, instances: int, total: int) -> None:
        """Turn MIG on: so many instances of `total` bytes each."""
        gpu = self.gpus[index]
        gpu.instances = instances
        for i in range(instances):
            mig = gpu.mig[i]
            mig.gpu, mig.id, mig.total = index, i + 1, total

    def hold(self, index: int, pid: int, size: int) -> None:
        """A process takes so many bytes of a GPU; less than 0: gives them back."""
        with self._locked():
            gpu = self.gpus[index]
            accounts = list(gpu.accounts)
            mine = next((a for a in accounts if a.pid == pid), None)
            free = next((a for a in accounts if not Path(f"/proc/{a.pid or 0}").exists()), None)
            account = mine or free
            assert account is not None, "too many processes hold memory of the fake GPU"
            if mine is None:
                account.pid, account.bytes = pid, 0
            account.bytes = max(0, account.bytes + size)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def tritonserver() -> int:
    """The pid of the Triton that the calling process is a model of."""
    pid = os.getpid()
    while pid > 1:
        if Path(f"/proc/{pid}/comm").read_text().strip() == "tritonserver":
            return pid
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pid = int(status[1])
    raise RuntimeError("not a model of Triton's")
