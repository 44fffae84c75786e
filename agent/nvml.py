"""What the driver tells of a GPU, through NVIDIA's own library: the only place that speaks it.

A GPU is named by its UUID (GPU-... or MIG-...), by its index ("2"), or as a MIG instance by both
indices ("2:1"). Memory and processes are the instance's own; temperature, power, ECC errors and
XIDs are its board's, for the driver tells no others.

Every call here may take long, for ever even: a driver with a sick GPU waits for it. So these run in
threads of their own (gpu.py), one a device. What a GPU cannot tell counts as 0.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pynvml
import structlog

from agent.work import NOTHING, Holder, Measure, Xid

log = structlog.get_logger()

WAIT_MILLISECONDS = 500  # for an event, so that the listener hears that it should end
KEPT_XIDS = 16


class Nvml:
    """The driver's library, where there is one. Looked for when a GPU is first asked about."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open = False
        self._missing = False
        self._said = ""  # why there is no driver
        self._events: Any = None
        self._listener: threading.Thread | None = None
        self._stopping = threading.Event()
        self._xids: dict[int, deque[tuple[Xid, int]]] = {}  # by board: with its GPU instance

    def gpu(self, name: str) -> Gpu:
        """One GPU; it need not be there."""
        return Gpu(self, name)

    def open(self) -> bool:
        """Whether there is a driver."""
        with self._lock:
            if self._open or self._missing:
                return self._open
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                if isinstance(error, pynvml.NVMLError_LibraryNotFound):
                    self._missing = True  # for good; a driver that is loading may come
                if str(error) != self._said:
                    log.warning("no driver", reason=str(error))
                self._said = str(error)
                return False
            self._open = True
            return True

    def close(self) -> None:
        """Let go of the driver."""
        self._stopping.set()
        if self._listener:
            self._listener.join(4 * WAIT_MILLISECONDS / 1000)
        if self._open:
            self._open = False
            pynvml.nvmlShutdown()

    def listen_to(self, board: Any) -> None:
        """Hear of a board's XIDs from now on, where it can tell them."""
        with self._lock:
            if _address(board) in self._xids:
                return
            self._xids[_address(board)] = deque(maxlen=KEPT_XIDS)
            wanted = pynvml.nvmlEventTypeXidCriticalError
            try:
                if not pynvml.nvmlDeviceGetSupportedEventTypes(board) & wanted:
                    return
                if self._events is None:
                    self._events = pynvml.nvmlEventSetCreate()
                pynvml.nvmlDeviceRegisterEvents(board, wanted, self._events)
            except pynvml.NVMLError as error:
                log.info("no XID events", reason=str(error))
                return
            if self._listener is None:
                self._listener = threading.Thread(target=self._listen, name="xids", daemon=True)
                self._listener.start()

    def xids(self, board: Any, instance: int | None) -> tuple[Xid, ...]:
        """Latest XIDs of a board; of one MIG instance, and of the board as a whole, where named."""
        everywhere = 0xFFFFFFFF
        found = list(self._xids.get(_address(board), ()))
        return tuple(
            xid for xid, where in found if instance is None or where in (instance, everywhere)
        )

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                event = pynvml.nvmlEventSetWait(self._events, WAIT_MILLISECONDS)
            except pynvml.NVMLError_Timeout:
                continue
            except pynvml.NVMLError as error:  # a GPU of the set is lost: its sample tells that
                log.debug("waiting for XIDs failed", reason=str(error))
                self._stopping.wait(WAIT_MILLISECONDS / 1000)
                continue
            log.warning("xid", code=event.eventData)
            if (heard := self._xids.get(_address(event.device))) is not None:
                heard.append((Xid(int(event.eventData), self._clock()), int(event.gpuInstanceId)))


class Gpu:
    """One GPU or MIG instance. Asked by one thread at a time."""

    def __init__(self, nvml: Nvml, name: str) -> None:
        self.name = name
        self._nvml = nvml
        self._handle: Any = None
        self._board: Any = None  # the same, for a whole GPU
        self._instance: int | None = None
        self._mig_profile = ""
        self._known = False  # it was there once
        self._said = ""  # why it is not, the last time that was told

    def sample(self) -> Measure:
        """All that the driver tells."""
        try:
            if not self._nvml.open():
                return NOTHING
            self._find()
            handle, board = self._handle, self._board
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            busy = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            heat = _told(
                lambda: pynvml.nvmlDeviceGetTemperature(board, pynvml.NVML_TEMPERATURE_GPU)
            )
            milliwatts = _told(lambda: pynvml.nvmlDeviceGetPowerUsage(board))
            errors = _told(
                lambda: pynvml.nvmlDeviceGetTotalEccErrors(
                    board,
                    pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                    pynvml.NVML_VOLATILE_ECC,
                )
            )
            holders = _told(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle), ())
        except pynvml.NVMLError as error:
            return self._failed(error)
        return Measure(
            used_bytes=int(memory.used),
            free_bytes=int(memory.free),
            total_bytes=int(memory.total),
            utilisation_percent=int(busy),
            temperature_celsius=int(heat),
            power_watts=milliwatts / 1000,
            uncorrected_ecc_errors=int(errors),
            holders=tuple(Holder(int(p.pid), int(p.usedGpuMemory or 0)) for p in holders),
            xids=self._nvml.xids(board, self._instance),
            mig_profile=self._mig_profile,
        )

    def used(self) -> int:
        """Bytes of memory in use; 0 where the driver does not tell."""
        try:
            if self._nvml.open():
                self._find()
                return int(pynvml.nvmlDeviceGetMemoryInfo(self._handle).used)
        except pynvml.NVMLError as error:
            self._failed(error)
        return 0

    def _find(self) -> None:
        if self._handle is not None:
            return
        index, _, instance = self.name.partition(":")
        if not index.isdecimal():
            handle = pynvml.nvmlDeviceGetHandleByUUID(self.name)
            mig = bool(_told(lambda: pynvml.nvmlDeviceIsMigDeviceHandle(handle).value))
        else:
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(index))
            if mig := bool(instance):
                handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, int(instance))
        self._board = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if mig else handle
        if mig:
            self._instance = pynvml.nvmlDeviceGetGpuInstanceId(handle)
            name = pynvml.nvmlDeviceGetName(handle)  # NVIDIA A100-SXM4-40GB MIG 1g.5gb
            self._mig_profile = name.rpartition("MIG ")[2]
        self._nvml.listen_to(self._board)
        self._handle = handle
        self._known, self._said = True, ""

    def _failed(self, error: pynvml.NVMLError) -> Measure:
        """What an error means: the GPU is lost, or the driver does not tell."""
        self._handle = None  # it may come back as another
        gone = (
            pynvml.NVMLError_NotFound, pynvml.NVMLError_InvalidArgument,
            pynvml.NVMLError_GpuNotFound,
        )  # fmt: skip
        if isinstance(error, pynvml.NVMLError_GpuIsLost):
            return Measure(lost="it fell off the bus (the driver says GPU_IS_LOST)")
        if isinstance(error, pynvml.NVMLError_ResetRequired):
            return Measure(lost="the driver says that it must be reset")
        if self._known and isinstance(error, gone):
            return Measure(lost="the driver does not know it any more")
        if str(error) != self._said:
            log.warning("the driver does not tell", gpu=self.name, reason=str(error))
        self._said = str(error)
        return NOTHING


def _told(ask: Callable[[], Any], otherwise: Any = 0) -> Any:
    """What the driver says, where it says it of such a GPU. Raises only that the GPU is lost."""
    try:
        return ask()
    except (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired):
        raise
    except pynvml.NVMLError:
        return otherwise


def _address(handle: Any) -> int:
    """Names a handle: the driver gives the same one for a GPU each time."""
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0)
