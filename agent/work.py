"""The agent's nouns: what it is asked to do, and what it tells. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from atelier.errors import AtelierError
from atelier.generation import Provenance, Result
from atelier.spec import ImageSpec


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
    spec: ImageSpec


class Phase(StrEnum):
    """What an attempt is doing."""

    ENCODING_TEXT = "ENCODING_TEXT"
    DENOISING = "DENOISING"
    DECODING = "DECODING"
    UPLOADING = "UPLOADING"


class AttemptCancelledError(Exception):
    """The attempt was asked to stop, and has; heard at a step boundary."""


@dataclass(frozen=True)
class Progressed:
    """An attempt came further."""

    attempt: Attempt
    phase: Phase
    step: int
    total_steps: int
    step_seconds: float


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


@dataclass(frozen=True)
class Failed:
    """An attempt ended without results."""

    attempt: Attempt
    error: AtelierError
    retryable: bool
    cancelled: bool = False


@dataclass(frozen=True)
class ModelChanged:
    """A load or an unload ended; `resident` says where the model stands now."""

    device_id: str
    model: str
    resident: bool
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
class DeviceSample:
    """What a device looks like now."""

    device_id: str
    healthy: bool
    reason: str
    measured_bytes: int
    utilisation_percent: int
    resident_models: tuple[str, ...]


Outcome = Succeeded | Failed
Told = Progressed | Released | Succeeded | Failed | ModelChanged
