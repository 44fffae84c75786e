"""Is this plan the engine that its record says?

With a GPU the library loads the plan, and every name, type, shape and profile is compared with the
record. Without one the library gets as far as the plan's header and its list of parts, and refuses
what is cut off, of another kind or another format; the rest rests on the record and the plan's
hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from exporters.tensorrt.api import CudaEngine, Module
from exporters.tensorrt.build_log import BuildLog
from exporters.tensorrt.graph import file_sha256
from exporters.tensorrt.library import Library
from exporters.tensorrt.profiles import Bounds, Profile
from exporters.tensorrt.record import (
    TRITON_TYPES,
    Binding,
    Engine,
    EngineError,
    from_json,
    record_path,
)

Depth = Literal["record", "header", "whole"]


def read_record(plan: Path) -> Engine:
    """The record of a plan, whose hash is the plan's.

    Raises:
        EngineError: there is none, or the plan is another's.
    """
    path = record_path(plan)
    if not path.is_file():
        raise EngineError(f"{path}: missing: build the engine again")
    engine = from_json(path.read_text())
    if not plan.is_file() or file_sha256(plan) != engine.plan_sha256:
        raise EngineError(f"{plan}: not the file that {path.name} describes: build it again")
    return engine


def read_back(library: Library, plan: Path) -> tuple[Engine, Depth]:
    """The record of a plan after the library has looked at it, and how far that look went.

    Raises:
        EngineError: the library refuses the plan, or sees another engine than the record says.
    """
    engine = read_record(plan)
    if (engine.library, engine.version) != (library.name, library.version):
        raise EngineError(
            f"{plan}: built by {engine.library} {engine.version}; here is {library.name}"
            f" {library.version}: build it again"
        )
    log = BuildLog(library.module)
    loaded = library.module.Runtime(log.logger).deserialize_cuda_engine(plan.read_bytes())
    if loaded is None:
        if log.only_driver_missing:
            return engine, "header"
        raise log.failure(f"loading {plan}", ())
    for what, seen, said in (
        ("inputs", _bindings(library.module, loaded, "INPUT"), set(engine.inputs)),
        ("outputs", _bindings(library.module, loaded, "OUTPUT"), set(engine.outputs)),
        ("profiles", _profiles(loaded, engine.inputs), engine.profiles),
    ):
        if seen != said:
            raise EngineError(f"{plan}: its {what} are {seen}, the record says {said}")
    return engine, "whole"


def _bindings(module: Module, engine: CudaEngine, mode: str) -> set[Binding]:
    wanted = getattr(module.TensorIOMode, mode)
    names = map(engine.get_tensor_name, range(engine.num_io_tensors))
    return {
        Binding(
            name,
            TRITON_TYPES.get(engine.get_tensor_dtype(name).name, "unknown"),
            tuple(engine.get_tensor_shape(name)),
        )
        for name in names
        if engine.get_tensor_mode(name) == wanted
    }


def _profiles(engine: CudaEngine, inputs: tuple[Binding, ...]) -> tuple[Profile, ...]:
    return tuple(
        {
            binding.name: Bounds(*map(tuple, engine.get_tensor_profile_shape(binding.name, index)))
            for binding in inputs
        }
        for index in range(engine.num_optimization_profiles)
    )
