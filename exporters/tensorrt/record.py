"""What an engine is, in words, beside its plan. Pure.

A plan can be read only by the library that built it, and whole only on a GPU. Its record says what
the library was given and what it answered, so that everything else (the card, `atelier models`, a
later build that would be the same) needs neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporters.tensorrt.profiles import Bounds, Profile

_SUFFIX = ".json"

# The libraries' names of types, and Triton's.
TRITON_TYPES = {
    "FLOAT": "FP32",
    "HALF": "FP16",
    "BF16": "BF16",
    "INT8": "INT8",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "BOOL": "BOOL",
}


class EngineError(ValueError):
    """No engine, and why, and what to do; `nodes` are the ONNX nodes at fault."""

    def __init__(self, message: str, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.nodes = nodes


@dataclass(frozen=True)
class Binding:
    """An input or output; -1 in `shape` is an axis that the profiles bound, rows first.

    Attributes:
        dtype: the type's name in Triton: FP16, FP32, INT64, UINT8.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Engine:
    """A built engine.

    Attributes:
        library: tensorrt or tensorrt-rtx.
        devices: what it was built for: compute capabilities such as SM86, or the GPU's name.
        graph_sha256: over the ONNX file and the weights beside it.
        matrix_types: how many convolutions and matrix products compute in which type.
        cpu_seconds: CPU seconds of the build, of all threads.
    """

    library: str
    version: str
    devices: tuple[str, ...]
    graph_sha256: str
    plan_sha256: str
    plan_bytes: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    profiles: tuple[Profile, ...]
    matrix_types: Mapping[str, int]
    cpu_seconds: float


def record_path(plan: Path) -> Path:
    """Where the record of a plan lies."""
    return plan.with_name(plan.name + _SUFFIX)


def to_json(engine: Engine) -> str:
    """The record's text."""
    return json.dumps(asdict(engine), indent=1) + "\n"


def from_json(text: str) -> Engine:
    """The record that a text holds.

    Raises:
        EngineError: it is none.
    """
    try:
        raw = json.loads(text)
        return Engine(
            **raw
            | {
                "devices": tuple(raw["devices"]),
                "inputs": tuple(map(_binding, raw["inputs"])),
                "outputs": tuple(map(_binding, raw["outputs"])),
                "profiles": tuple(map(_profile, raw["profiles"])),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise EngineError(f"not an engine's record: {error}; build it again") from error


def _binding(raw: Mapping[str, Any]) -> Binding:
    return Binding(raw["name"], raw["dtype"], tuple(raw["shape"]))


def _profile(raw: Mapping[str, Any]) -> Profile:
    return {
        name: Bounds(tuple(b["least"]), tuple(b["best"]), tuple(b["most"]))
        for name, b in raw.items()
    }
