"""TensorRT engines of an export's components (exporters/tensorrt)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from exporters.errors import ExportError
from exporters.pbtxt import Engine
from exporters.spec import PLAN_FILE, Component
from exporters.tensorrt.build import build
from exporters.tensorrt.engine_cache import EngineCache
from exporters.tensorrt.library import load
from exporters.tensorrt.profiles import profiles
from exporters.tensorrt.record import EngineError


def build_plan(
    engine: Engine,
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
        ExportError: the library is not here, or refuses the graph.
    """
    assert engine != "onnxruntime"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [(height, width) for width, height in shapes]
    try:
        library = load(engine)
        wanted = profiles(component, sizes, downscale=downscale)
        made = build(
            library, source, folder / PLAN_FILE, wanted, cache=EngineCache(cache), progress=tell
        )
    except EngineError as error:
        raise ExportError(str(error)) from error
    note = f"{made.plan_bytes / 1e6:.1f} MB for {', '.join(made.devices)}, {library.version}"
    return len(made.profiles), note
