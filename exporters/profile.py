"""Measures a published model on this machine and writes what it cost into its card."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atelier.catalog import ModelCard
from exporters.card import header, measurements, resident_bytes, spec_of
from exporters.errors import ExportError
from exporters.measure import ROWS, THREADS, Cost, Shape, in_words, measure
from exporters.progress import Show
from exporters.repository import find, model_path
from exporters.toml import to_toml


def profile(
    repository: Path, name: str, shapes: Sequence[tuple[int, int]], device: str, show: Show
) -> None:
    """Measure every component at every shape, and write the card again, whole or not at all.

    Args:
        shapes: widths and heights in pixels; none for those of the card.
        device: what is measured, in words; the card repeats them.

    Raises:
        ExportError: there is no such model, or ONNX Runtime cannot run it.
    """
    path, card = find(repository, name)
    if card.engine != "onnxruntime":
        raise ExportError(
            f"{name}: engine {card.engine}: plans are measured where Triton serves them;"
            " `atelier profile` runs ONNX Runtime"
        )
    spec = spec_of(card)
    wanted = list(shapes) or [_size(shape) for shape in card.profiles]
    rows = tuple(n for n in ROWS if n <= card.max_rows)
    costs: dict[str, dict[str, Cost]] = {}
    for width, height in wanted:
        shape = Shape(height // spec.downscale, width // spec.downscale, spec.downscale)
        by_role = costs.setdefault(spec.shape(width, height), {})
        for component in spec.components:
            with show.stage(f"{component.role} at {width}x{height}") as bar:
                cost = measure(model_path(repository, component), shape, rows)
                by_role[component.role] = cost
                bar.note = in_words(cost)
    _write(path, card, costs, device)


def _size(shape: str) -> tuple[int, int]:
    width, height, *_ = shape.split("x")
    return int(width), int(height)


def _write(path: Path, card: ModelCard, costs: dict[str, dict[str, Cost]], device: str) -> None:
    table: dict[str, Any] = tomllib.loads(path.read_text())
    first = next(iter(costs.values()))
    how = f"ONNX Runtime on {device}, {THREADS} thread: CPU seconds, median of runs"
    fresh = measurements(costs, card.max_rows, how)
    table["profiles"] = {**table["profiles"], **fresh["profiles"]}
    table["measured"] = fresh["measured"]
    table["load_seconds"] = float(f"{sum(c.load_seconds for c in first.values()):.3g}")
    measured = dict(table.get("weights", {}))
    unmeasured = measured.pop(card.safety.model, 0) if card.safety else 0
    table["resident_bytes"] = resident_bytes(measured, first) + unmeasured
    text = header() + to_toml(table)
    ModelCard.parse(text)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    os.replace(aside, path)
