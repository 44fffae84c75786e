"""TensorRT engines of an export's components (exporters/tensorrt)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from exporters.errors import ExportError
from exporters.pbtxt import Engine
from exporters.spec import PLAN_FILE, Component
from exporters.tensorrt.build import build
from exporters.tensorrt.engine_cache import EngineCache
from exporters.tensorrt.library import Library, load
from exporters.tensorrt.profiles import profiles
from exporters.tensorrt.record import EngineError


def library_for(engine: Engine, capabilities: Sequence[str]) -> Library | None:
    """The library that builds such engines; None where there is nothing to build.

    Args:
        capabilities: compute capabilities such as SM86, for TensorRT-RTX; none for its usual ones.

    Raises:
        ExportError: the library is not here, or cannot build for these.
    """
    if engine == "onnxruntime":
        if capabilities:
            raise ExportError("--capabilities is for --engine tensorrt-rtx")
        return None
    try:
        return load(engine, capabilities)
    except EngineError as error:
        raise ExportError(f"--engine {engine}: {error}") from error


def build_plan(
    library: Library,
    source: Path,
    folder: Path,
    component: Component,
    shapes: Sequence[tuple[int, int]],
    *,
    downscale: int,
    cache: Path,
    tell: Callable[[float, str], object],
) -> tuple[int, str]:
    """Build a component's plan into `folder`; returns its profiles' count, and a line about it.

    Args:
        shapes: widths and heights in pixels; one profile for each.

    Raises:
        ExportError: the library refuses the graph.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [(height, width) for width, height in shapes]
    engines = EngineCache(cache)
    try:
        wanted = profiles(component, sizes, downscale=downscale)
        made = build(library, source, folder / PLAN_FILE, wanted, cache=engines, progress=tell)
    except EngineError as error:
        raise ExportError(str(error)) from error
    note = f"{made.plan_bytes / 1e6:.1f} MB for {', '.join(made.devices)}, {library.version}"
    if removed := engines.prune():
        note += f"; {removed / 1e6:.1f} MB of older engines removed from {cache}"
    return len(made.profiles), note
