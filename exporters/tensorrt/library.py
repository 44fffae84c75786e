"""Which of the two libraries is here, and what it can build for.

TensorRT-RTX compiles ahead of time for the compute capabilities named and finishes on the GPU that
loads the engine, so it needs none. TensorRT times kernels on the GPU that will run the engine, so
it builds for that one and nowhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import pynvml

from exporters.tensorrt.api import Module
from exporters.tensorrt.record import EngineError

Name = Literal["tensorrt", "tensorrt-rtx"]

# Ampere, Ada and Blackwell: what TensorRT-RTX builds for when nothing is said. Turing (SM75) must
# be asked for, and takes graphs in FP16 throughout: it has no FP32 matrix products.
DEFAULT_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")
_NOT_ARCHITECTURES = {"NONE", "CURRENT"}

_REMEDY = {
    "tensorrt-rtx": "pip install 'atelier-serving[tensorrt]'",
    "tensorrt": "pip install tensorrt (on a machine with an NVIDIA GPU; its wheels come from"
    " NVIDIA's index)",
}


@dataclass(frozen=True)
class Library:
    """One of the two, loaded.

    Attributes:
        devices: what it will build for: compute capabilities, or the name of the GPU here.
    """

    name: Name
    module: Module
    devices: tuple[str, ...]

    @property
    def version(self) -> str:
        return self.module.__version__

    @property
    def ahead_of_time(self) -> bool:
        """Builds without a GPU; picks its kernels where the engine runs, for the shapes it meets.

        Then one profile that spans all sizes serves as well as many (which repeat everything but
        the weights), and timing caches hold nothing.
        """
        return self.name == "tensorrt-rtx"


def load(name: Name, capabilities: Sequence[str] = ()) -> Library:
    """Import a library and settle what to build for.

    Args:
        capabilities: such as SM86, for TensorRT-RTX alone; none means DEFAULT_CAPABILITIES.

    Raises:
        EngineError: it is not installed; a capability that it does not know; no GPU for TensorRT.
    """
    try:
        module = cast(Module, importlib.import_module(name.replace("-", "_")))
    except ImportError as error:
        raise EngineError(f"{name} is not installed ({error}): {_REMEDY[name]}") from error
    if name == "tensorrt":
        if capabilities:
            raise EngineError(
                f"compute capabilities {', '.join(capabilities)}: TensorRT builds for the GPU of"
                " this machine alone; leave them out, or take tensorrt-rtx"
            )
        try:
            return Library(name, module, (gpu_here(),))
        except EngineError as error:
            raise EngineError(
                f"{error}: TensorRT builds on the GPU that runs the engine; tensorrt-rtx builds"
                " without one"
            ) from error
    known = [n for n in module.ComputeCapability.__members__ if n not in _NOT_ARCHITECTURES]
    wanted = tuple(dict.fromkeys(capabilities)) or DEFAULT_CAPABILITIES
    if unknown := [capability for capability in wanted if capability not in known]:
        raise EngineError(
            f"compute capability {', '.join(unknown)}: {name} {module.__version__} knows"
            f" {', '.join(known)}"
        )
    return Library(name, module, wanted)


def gpu_here() -> str:
    """Name and compute capability of this machine's first GPU, such as `NVIDIA A10 (SM86)`.

    Raises:
        EngineError: there is no driver, or no GPU.
    """
    try:
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            return f"{pynvml.nvmlDeviceGetName(handle)} (SM{major}{minor})"
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise EngineError(f"no NVIDIA GPU here ({error})") from error
