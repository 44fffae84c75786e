"""The agent's nouns: what it is asked to do, and what it tells. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from atelier.errors import AtelierError
from atelier.generation import Provenance, Result
from atelier.spans import about
from atelier.spec import Spec, VideoSpec


@dataclass(frozen=True)
class Attempt:
    """One attempt at a generation; `lease_token` fences everything that is written about it."""

    generation_id: str
    lease_token: int
    device_id: str
    released: bool = False  # in a Hello: its device is given back already


@dataclass(frozen=True)
class Work:
    """What an attempt is to make."""

    attempt: Attempt
    tenant: str
    model: str
    spec: Spec
    number: int = 1  # of the attempt, from 1
    rows_at_once: int = 0  # pictures that memory was granted for; 0: as the card says
    alone: bool = False  # share no step with others: it may have ended a Triton
    trace_parent: str = ""  # the caller's span (W3C traceparent); "": none

    @property
    def whose(self) -> dict[str, str]:
        """By what a line of the log is found: the generation, its tenant, its trace."""
        return about(self.attempt.generation_id, self.tenant, self.trace_parent)

    @property
    def kind(self) -> str:
        """What is made, in the words of cards."""
        return "video" if isinstance(self.spec, VideoSpec) else "image"


class Phase(StrEnum):
    """What an attempt is doing."""

    ENCODING_TEXT = "ENCODING_TEXT"
    DENOISING = "DENOISING"
    DECODING = "DECODING"
    UPLOADING = "UPLOADING"


class AttemptCancelledError(Exception):
    """The attempt was asked to stop, and has; heard at a step boundary."""


class AttemptPreemptedError(Exception):
    """The attempt was taken off its device at a step boundary; it can go on from there."""


@dataclass(frozen=True)
class Progressed:
    """An attempt came further; `preview`: a small JPEG of what it looks like after `step`."""

    attempt: Attempt
    phase: Phase
    step: int
    total_steps: int
    step_seconds: float
    preview: bytes = b""


@dataclass(frozen=True)
class Released:
    """An attempt needs its device no more: its latents are decoded."""

    attempt: Attempt


@dataclass(frozen=True)
class Succeeded:
    """An attempt's results are uploaded."""

    attempt: Attempt
    results: tuple[Result, ...]
    provenance: Provenance
    encode_seconds: float = 0.0  # of all results together; 0: not measured


@dataclass(frozen=True)
class Failed:
    """An attempt ended without results."""

    attempt: Attempt
    error: AtelierError
    retryable: bool
    cancelled: bool = False


@dataclass(frozen=True)
class Preempted:
    """An attempt was taken off its device; the next goes on after `step` steps."""

    attempt: Attempt
    step: int


@dataclass(frozen=True)
class ModelChanged:
    """A load or an unload ended; `resident` says where the model stands now.

    measured_bytes: what the driver's figure changed by; None where it told none.
    triton_models: those that came or went; not what another model shares.
    """

    device_id: str
    model: str
    resident: bool
    seconds: float
    error: AtelierError | None = None
    measured_bytes: int | None = None
    from_host_memory: bool = False
    triton_models: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchMeasured:
    """What a batch took while its composition stayed as it was; 0 peak_bytes: not known."""

    device_id: str
    model: str
    shape: str
    rows: int
    steps: int
    step_seconds: float  # the median
    peak_bytes: int
    resident_models: tuple[str, ...]
    quiet_bytes: int = 0  # in use before it ran; 0: not known, or other batches left something


@dataclass(frozen=True)
class Recycled:
    """A device's Triton was started anew, or could not be."""

    device_id: str
    seconds: float
    error: AtelierError | None = None


@dataclass(frozen=True)
class Probed:
    """A device was tried."""

    device_id: str
    seconds: float
    error: AtelierError | None = None


@dataclass(frozen=True)
class DeviceFacts:
    """What a device is."""

    id: str
    hardware: str
    capacity_bytes: int
    resident_models: tuple[str, ...]


@dataclass(frozen=True)
class HostFacts:
    """What the node's host memory may hold, and holds, as measured."""

    capacity_bytes: int = 0
    models: tuple[str, ...] = ()
    resident_bytes: int = 0


@dataclass(frozen=True)
class Xid:
    """An error that the driver told of, and when (seconds on our clock)."""

    code: int
    at: float


@dataclass(frozen=True)
class Holder:
    """A process that holds memory on the GPU; 0 bytes where the driver does not tell."""

    pid: int
    bytes: int


@dataclass(frozen=True)
class Measure:
    """What the driver tells; `lost` says in words why it has no hold of the GPU any more."""

    used_bytes: int = 0
    free_bytes: int = 0
    total_bytes: int = 0
    utilisation_percent: int = 0  # of the last period: in how much of it a kernel ran
    temperature_celsius: int = 0
    power_watts: float = 0.0
    uncorrected_ecc_errors: int = 0
    holders: tuple[Holder, ...] = ()
    xids: tuple[Xid, ...] = ()
    mig_profile: str = ""
    lost: str = ""
    answered: bool = True


NOTHING = Measure(answered=False)


class Trouble(StrEnum):
    """What is wrong with a device; the values are the contract's."""

    NONE = "UNSPECIFIED"
    TRITON = "TRITON"
    LOST = "LOST"
    FAULT = "FAULT"


@dataclass(frozen=True)
class DeviceSample:
    """What a device looks like now; `reason` has its trouble in words."""

    device_id: str
    trouble: Trouble
    reason: str
    measure: Measure
    resident_models: tuple[str, ...]
    xids: tuple[tuple[int, float], ...] = ()  # the driver's latest errors: (code, seconds ago)

    @property
    def healthy(self) -> bool:
        return self.trouble is Trouble.NONE


Outcome = Succeeded | Failed | Preempted
DeviceTold = ModelChanged | BatchMeasured | Recycled | Probed
Told = Progressed | Released | Succeeded | Failed | Preempted | DeviceTold
