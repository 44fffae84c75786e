"""The Triton model repository on disk: version of a model, publishing it, checking it.

A model is built in a folder beside the repository and moved in when it is whole, its card last:
neither Triton nor a catalogue ever sees half of one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atelier.catalog import ModelCard, NoiseSchedule
from exporters.card import spec_of
from exporters.measure import open_session
from exporters.pbtxt import CONFIG_FILE, render
from exporters.spec import FREE, MODEL_FILE, MODEL_VERSION, Component, ExportSpec, Tensor

_ONNX_TYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(uint8)": "UINT8"}


def model_path(repository: Path, component: Component) -> Path:
    """Where a component's ONNX file lies."""
    return repository / component.name / MODEL_VERSION / MODEL_FILE


def version_of(repository: Path, spec: ExportSpec, schedule: Mapping[str, Any]) -> str:
    """SHA-256 over every file of a model and its noise schedule: all that decides its pictures."""
    whole = vars(NoiseSchedule(**schedule))  # what the table leaves out counts as it is read
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode())
    for component in spec.components:
        for path in sorted((repository / component.name).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                name = path.relative_to(repository).as_posix()
                digest.update(f"\0{name}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()


@contextmanager
def staging(repository: Path, spec: ExportSpec) -> Iterator[Path]:
    """A folder to build a model in, on the repository's disk; gone afterwards.

    It holds the components' version folders and their config.pbtxt already.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=repository.resolve().parent) as name:
        folder = Path(name)
        for component in spec.components:
            model_path(folder, component).parent.mkdir(parents=True)
            (folder / component.name / CONFIG_FILE).write_text(render(component))
        yield folder


def publish(built: Path, repository: Path, spec: ExportSpec) -> None:
    """Move a whole model from `built` into the repository, in place of an older one."""
    card = repository / spec.card_file
    card.unlink(missing_ok=True)
    for component in spec.components:
        target = repository / component.name
        if target.exists():
            shutil.move(target, built / f"{component.name}.old")
        (built / component.name).rename(target)
    (built / spec.card_file).rename(card)


def problems(repository: Path) -> list[str]:
    """What is wrong with the repository: generated files that differ, models that do not fit."""
    found = []
    claimed = set()
    cards = sorted(repository.glob("*.toml"))
    if not cards:
        found.append(f"{repository}: no model cards (*.toml)")
    for path in cards:
        try:
            card = ModelCard.parse(path.read_text())
        except ValueError as error:
            found.append(f"{path}: {error}")
            continue
        claimed |= set(card.components.triton_models)
        found += [f"{path.name}: {problem}" for problem in _model_problems(repository, card)]
    for folder in sorted(repository.glob("*__*")):
        if folder.name not in claimed:
            found.append(f"{folder.name}: belongs to no card")
    return found


def _model_problems(repository: Path, card: ModelCard) -> Iterator[str]:
    spec = spec_of(card)
    names = tuple(component.name for component in spec.components)
    if card.components.triton_models != names:
        yield f"components are {card.components.triton_models}, not {names}"
        return
    if not (repository / card.components.tokenizer).is_file():
        yield f"no {card.components.tokenizer}"
    for component in spec.components:
        config = repository / component.name / CONFIG_FILE
        if not config.is_file() or config.read_text() != render(component):
            yield f"{component.name}/{CONFIG_FILE} is not what the export spec says"
        if not model_path(repository, component).is_file():
            yield f"no {component.name}/{MODEL_VERSION}/{MODEL_FILE}"
        else:
            yield from _signature_problems(repository, component)
    schedule = vars(card.schedule)
    if card.version != version_of(repository, spec, schedule):
        yield "version is not the hash of the files: export again"


def _signature_problems(repository: Path, component: Component) -> Iterator[str]:
    session = open_session(model_path(repository, component))
    for side, tensors, nodes in (
        ("inputs", component.inputs, session.get_inputs()),
        ("outputs", component.outputs, session.get_outputs()),
    ):
        there = tuple(_tensor(node) for node in nodes)
        if there != tensors:
            yield f"{component.name}/{MODEL_FILE}: {side} are {there}, not {tensors}"


def _tensor(node: Any) -> Tensor:
    dims = tuple(n if isinstance(n, int) else FREE for n in node.shape[1:])
    return Tensor(node.name, _ONNX_TYPES.get(node.type, node.type), dims)
