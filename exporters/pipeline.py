"""The export from end to end: open, trace, compare, measure, describe, publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from atelier.catalog import ModelCard
from exporters import card
from exporters.checkpoint import Checkpoint
from exporters.measure import Cost, measure
from exporters.offer import offer_for
from exporters.parity import Figure, Parity, require
from exporters.repository import model_path, publish, staging, version_of
from exporters.to_onnx import export_onnx

Say = Callable[[str], object]


def export_model(folder: Path, name: str, repository: Path, *, say: Say) -> None:
    """Export a checkpoint into a repository.

    Args:
        folder: the checkpoint, in diffusers' format.
        say: takes progress, one line at a time.

    Raises:
        OSError: a part of the checkpoint is missing.
        ValueError: the checkpoint is of a kind that is not supported.
        ParityError: the export is not the checkpoint; nothing was published.
    """
    checkpoint = Checkpoint.open(folder, name)
    spec = checkpoint.spec
    schedule = card.noise_schedule(checkpoint.schedule)
    say(f"{folder}: {checkpoint.native_pixels} pixels, {spec.tokens} tokens of {spec.width}")
    with staging(repository, spec) as built:
        weights = _trace(checkpoint, built, say)
        figures = _compare(checkpoint, built, say)
        costs = _measure(checkpoint, built, say)
        version = version_of(built, spec, schedule)
        offer = offer_for(name, checkpoint.native_pixels)
        multiple = checkpoint.latent_multiple * spec.downscale
        text = card.render(
            spec,
            version=version,
            schedule=schedule,
            offer=offer,
            limits=offer.limits(checkpoint.native_pixels, multiple),
            native_pixels=checkpoint.native_pixels,
            weights=weights,
            costs=costs,
            figures=figures,
        )
        ModelCard.parse(text)  # a card that its readers refuse is a bug: fail before publishing
        (built / spec.card_file).write_text(text)
        publish(built, repository, spec)
    say(f"{repository}: {name} is there, version {version[:12]}")


def _trace(checkpoint: Checkpoint, built: Path, say: Say) -> dict[str, int]:
    """Write the three ONNX files; returns the bytes of their weights when loaded, by name."""
    weights = {}
    for graph, component in zip(checkpoint.halved(), checkpoint.spec.components, strict=True):
        path = model_path(built, component)
        weights[component.name] = export_onnx(
            graph, component, path, latent_multiple=checkpoint.latent_multiple
        )
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        say(f"  {component.name}: {size / 1e6:.2f} MB of ONNX")
    checkpoint.save_tokenizer((built / checkpoint.spec.tokenizer_file).parent)
    return weights


def _compare(checkpoint: Checkpoint, built: Path, say: Say) -> list[Figure]:
    parity = Parity(checkpoint, built)
    figures = [*parity.components(), parity.pictures()]
    for figure in figures:
        say(f"  {figure.name}: cosine {figure.cosine:.7f}, max diff {figure.max_abs_diff:.2g}")
    require(figures)
    return figures


def _measure(checkpoint: Checkpoint, built: Path, say: Say) -> list[Cost]:
    side = checkpoint.native_pixels // checkpoint.spec.downscale
    costs = []
    for component in checkpoint.spec.components:
        cost = measure(model_path(built, component), side)
        runs = ", ".join(f"{rows}: {seconds * 1e3:.1f}" for rows, seconds in cost.seconds)
        say(
            f"  {component.name}: load {cost.load_seconds:.2f} s,"
            f" {cost.bytes_per_row / 1e6:.2f} MB a row, ms by rows {runs}"
        )
        costs.append(cost)
    return costs
