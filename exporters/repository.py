"""The Triton model repository on disk: version of a model, sharing, checking it, removing it.

A component that another model has already, byte for byte, is not written again: the card names that
model's, and devices hold it once. How a model gets in is publishing.py's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from atelier.catalog import ModelCard, NoiseSchedule
from exporters.card import spec_of
from exporters.errors import ExportError
from exporters.measure import open_session
from exporters.pbtxt import CONFIG_FILE, Engine, render
from exporters.spec import (
    FREE,
    MODEL_FILE,
    MODEL_VERSION,
    PLAN_FILE,
    Component,
    ExportSpec,
    Tensor,
)

_ONNX_TYPES = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
}
_BLOCK_BYTES = 1 << 24


def model_path(repository: Path, component: Component, engine: str = "onnxruntime") -> Path:
    """Where a component's model file lies."""
    file = MODEL_FILE if engine == "onnxruntime" else PLAN_FILE
    return repository / component.name / MODEL_VERSION / file


def hashes(repository: Path, folders: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of every file of some Triton models, by path in the repository."""
    found = {}
    for folder in folders:
        for path in sorted((repository / folder).rglob("*")):
            if path.is_file():
                found[path.relative_to(repository).as_posix()] = _sha256(path)
    return found


def version_of(files: Mapping[str, str], schedule: Mapping[str, Any]) -> str:
    """SHA-256 over every file's hash and the noise schedule: all that decides the pictures."""
    whole = vars(NoiseSchedule(**schedule))  # what the table leaves out counts as it is read
    text = json.dumps([whole, sorted(files.items())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def cards(repository: Path) -> dict[Path, ModelCard]:
    """Every card that can be read; a broken one is `problems`' to tell."""
    found = {}
    for path in sorted(repository.glob("*.toml")):
        try:
            found[path] = ModelCard.parse(path.read_text())
        except ValueError:
            continue
    return found


def folders_of(card: ModelCard) -> tuple[str, ...]:
    """The Triton models that a card names."""
    return (*card.components.triton_models, *card.parts)


def shared(built: Path, repository: Path, spec: ExportSpec) -> ExportSpec:
    """The spec with the names of components that another model in the repository has already.

    Also, a component whose own name is used by another model for something else gets a new name.
    """
    said: dict[str, dict[str, str]] = {}  # of Triton models that other cards name
    for path, card in cards(repository).items():
        if card.name != spec.name:
            files = tomllib.loads(path.read_text()).get("files", {})
            said |= {folder: _files_of(files, folder) for folder in folders_of(card)}
    names = dict(spec.names)
    for component in spec.components:
        own = _content(built, component.name, hashes(built, (component.name,)))
        # The cards' hashes find it without reading gigabytes; then the files must say the same.
        same = [
            folder
            for folder, files in sorted(said.items())
            if _content(repository, folder, files) == own and hashes(repository, (folder,)) == files
        ]
        if same:
            names[component.role] = same[0]
        elif component.name in said:
            digest = hashlib.sha256(json.dumps(own).encode()).hexdigest()
            names[component.role] = f"{component.name}_{digest[:8]}"
    return replace(spec, names=names)


def _files_of(files: Mapping[str, str], folder: str) -> dict[str, str]:
    return {path: digest for path, digest in files.items() if path.startswith(f"{folder}/")}


def _content(root: Path, folder: str, files: Mapping[str, str]) -> list[tuple[str, str]]:
    """What a Triton model is, whatever its name: its files' hashes, its config without the name."""
    config = root / folder / CONFIG_FILE
    if not config.is_file():
        return []
    own = sorted((path.removeprefix(folder), digest) for path, digest in files.items())
    text = config.read_text().replace(f'"{folder}"', '""')
    return [("config", text), *(pair for pair in own if pair[0] != f"/{CONFIG_FILE}")]


def find(repository: Path, name: str) -> tuple[Path, ModelCard]:
    """A model's card and where it lies.

    Raises:
        ExportError: there is none of that name.
    """
    found = cards(repository)
    for path, card in found.items():
        if card.name == name:
            return path, card
    known = ", ".join(card.name for card in found.values()) or "none"
    raise ExportError(f"{repository}: no model {name}; there are: {known}")


def remove(repository: Path, name: str) -> list[str]:
    """Remove a model: its card first, then the Triton models that no other card names, but for a
    safety checker, which was not made here.

    Returns:
        the folders removed.

    Raises:
        ExportError: there is no such model.
    """
    path, card = find(repository, name)
    path.unlink()
    checker = {card.safety.model} if card.safety else set()
    return drop(repository, set(folders_of(card)) - checker)


def drop(repository: Path, folders: set[str]) -> list[str]:
    """Remove those Triton models that no card names; returns them."""
    used = {name for card in cards(repository).values() for name in folders_of(card)}
    gone = sorted(folders - used)
    for name in gone:
        shutil.rmtree(repository / name, ignore_errors=True)
    return gone


def problems(repository: Path, name: str = "") -> list[str]:
    """What is wrong with the repository, or with one model of it: files that are missing or differ
    from their hashes, configs that differ from what they are generated from, signatures."""
    found: list[str] = []
    claimed: set[str] = set()
    paths = sorted(repository.glob("*.toml"))
    looked_at = not name
    if not paths:
        found.append(f"{repository}: no model cards (*.toml)")
    for path in paths:
        try:
            card = ModelCard.parse(path.read_text())
        except ValueError as error:
            found.append(f"{path}: {error}")
            continue
        claimed |= set(folders_of(card))
        if name in ("", card.name):
            looked_at = True
            found += [
                f"{path.name}: {problem}" for problem in _model_problems(repository, path, card)
            ]
    if paths and not looked_at:
        found.append(f"{repository}: no model {name}")
    if not name:
        for folder in sorted(repository.glob("*__*")):
            if folder.name not in claimed:
                found.append(f"{folder.name}: belongs to no card")
    return found


def _model_problems(repository: Path, path: Path, card: ModelCard) -> Iterator[str]:
    table = tomllib.loads(path.read_text())
    files = table.get("files", {})
    said = files | table.get("safety", {}).get("files", {})
    there = hashes(repository, folders_of(card))
    for file in sorted(said.keys() | there.keys()):
        if file not in there:
            yield f"{file} is missing"
        elif file not in said:
            yield f"{file} is not in the card"
        elif said[file] != there[file]:
            yield f"{file} is not what was exported"
    if card.version != version_of(files, vars(card.schedule)):
        yield "version is not the hash of the files: export again"
    for component in spec_of(card).components:
        config = repository / component.name / CONFIG_FILE
        model = model_path(repository, component, card.engine)
        if not config.is_file() or not _is_config(
            config.read_text(), component, cast(Engine, card.engine)
        ):
            yield f"{component.name}/{CONFIG_FILE} is not what the export spec says"
        if card.engine == "onnxruntime" and model.is_file():
            yield from _signature_problems(repository, component)
    for part in card.parts:
        folder = repository / part
        model = folder / MODEL_VERSION / MODEL_FILE
        if model.is_file() and (folder / CONFIG_FILE).read_text() != render(part_of(part, model)):
            yield f"{part}/{CONFIG_FILE} is not what its graph says"


def _is_config(text: str, component: Component, engine: Engine) -> bool:
    """Whether a config is the component's; of a plan it may have any number of profiles."""
    counts = range(1, 9) if engine == "tensorrt" else (1,)
    return any(text == render(component, engine, count) for count in counts)


def _signature_problems(repository: Path, component: Component) -> Iterator[str]:
    try:
        session = open_session(model_path(repository, component))
    except Exception as error:  # ONNX Runtime's own kinds, one for each way to fail
        yield f"{component.name}/{MODEL_FILE} does not load: {str(error)[:200]}"
        return
    for side, tensors, nodes in (
        ("inputs", component.inputs, session.get_inputs()),
        ("outputs", component.outputs, session.get_outputs()),
    ):
        there = tuple(tensor_of(node, batched=True) for node in nodes)
        if there != tensors:
            yield f"{component.name}/{MODEL_FILE}: {side} are {there}, not {tensors}"


def tensor_of(node: Any, *, batched: bool) -> Tensor:
    """A tensor of an ONNX Runtime session; `batched` leaves out its first axis."""
    dims = tuple(n if isinstance(n, int) else FREE for n in node.shape[1 if batched else 0 :])
    return Tensor(node.name, _ONNX_TYPES.get(node.type, node.type), dims)


def part_of(name: str, model: Path) -> Component:
    """A part of a split denoiser, as its graph says. Rows are an axis like any other: inside of
    the denoiser there are two for each that it is given."""
    session = open_session(model)
    inputs = tuple(tensor_of(node, batched=False) for node in session.get_inputs())
    outputs = tuple(tensor_of(node, batched=False) for node in session.get_outputs())
    return Component(name, inputs, outputs, max_batch_size=0, role="part")
