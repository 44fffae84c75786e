"""Names a safety checker in a model's card: a Triton model of the operator's own, which the agent
asks about everything that the model makes.

No checker is made here. Its folder lies in the repository as every Triton model does; the card's
[safety] table says how it is asked, and has its files' hashes. It is no part of the model's
version: it decides what is seen, not what is made. A model that is exported anew keeps its checker
(carried), and removing a model leaves the checker where it is.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from atelier.catalog import ModelCard, Safety
from exporters.card import header
from exporters.errors import ExportError
from exporters.measure import open_session
from exporters.pbtxt import CONFIG_FILE
from exporters.repository import find, hashes
from exporters.spec import MODEL_FILE, MODEL_VERSION
from exporters.toml import to_toml


def guard(repository: Path, name: str, safety: Safety) -> None:
    """Have a model's results looked at from now on, in place of an older checker's look.

    Raises:
        ExportError: there is no such model or checker, or it does not answer as it must.
    """
    path, card = find(repository, name)
    if safety.model in card.components.triton_models and card.safety is None:
        raise ExportError(f"{safety.model} is a part of {name}: name a Triton model that checks")
    _judge(repository, card, safety)
    files = hashes(repository, (safety.model,))
    size = sum((repository / file).stat().st_size for file in files if not _is_config(file))
    table = _without(tomllib.loads(path.read_text()))
    _write(path, _with(table, {**vars(safety), "files": files}, size))


def unguard(repository: Path, name: str) -> str:
    """Publish a model's results unseen again.

    Returns:
        the checker, whose folder stays.

    Raises:
        ExportError: there is no such model, or it has no checker.
    """
    path, card = find(repository, name)
    if card.safety is None:
        raise ExportError(f"{name} has no safety checker")
    _write(path, _without(tomllib.loads(path.read_text())))
    return card.safety.model


def carried(text: str, older: Path) -> str:
    """A new card's text, with the checker of the older card of the same model, if there is one."""
    table = tomllib.loads(older.read_text()) if older.is_file() else {}
    safety = table.get("safety")
    if not safety:
        return text
    size = table.get("weights", {}).get(safety["model"], 0)
    return header() + to_toml(_with(tomllib.loads(text), safety, size))


def _with(table: dict[str, Any], safety: dict[str, Any], size: int) -> dict[str, Any]:
    table["safety"] = safety
    table["weights"] = {**table.get("weights", {}), safety["model"]: size}
    table["resident_bytes"] += size
    return table


def _without(table: dict[str, Any]) -> dict[str, Any]:
    if safety := table.pop("safety", None):
        table["resident_bytes"] -= table.get("weights", {}).pop(safety["model"], 0)
    return table


def _write(path: Path, table: dict[str, Any]) -> None:
    text = header() + to_toml(table)
    ModelCard.parse(text)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    os.replace(aside, path)


def _judge(repository: Path, card: ModelCard, safety: Safety) -> None:
    """Raises ExportError: it cannot be this model's checker."""
    folder = repository / safety.model
    config = folder / CONFIG_FILE
    if not config.is_file() or not any(folder.glob("*/model.*")):
        raise ExportError(f"{folder}: no {CONFIG_FILE} and {MODEL_VERSION}/model.* there")
    most = re.search(r"^\s*max_batch_size\s*:\s*(\d+)", config.read_text(), re.MULTILINE)
    if most and 0 < int(most[1]) < card.max_rows:
        raise ExportError(
            f"{safety.model} takes {most[1]} pictures a call, and {card.name} may send"
            f" {card.max_rows}: raise max_batch_size in its {CONFIG_FILE}"
        )
    model = folder / MODEL_VERSION / MODEL_FILE
    if model.is_file():
        _try_out(model, card, safety)


def _try_out(model: Path, card: ModelCard, safety: Safety) -> None:
    """Ask an ONNX graph about grey pictures of the model's own size. Raises ExportError."""
    height, width = (int(card.limits[side].default) for side in ("height", "width"))
    for rows in (1, card.max_rows):
        grey = np.full((rows, height, width, 3), 127, np.uint8)
        try:
            [scores] = open_session(model).run([safety.output], {safety.input: grey})
        except Exception as error:  # ONNX Runtime's own kinds, one for each way to fail
            raise ExportError(
                f"{safety.model} cannot tell {safety.output} of {safety.input}, uint8"
                f" {list(grey.shape)}: {str(error)[:300]}"
            ) from error
        fits = scores.dtype == np.float32 and scores.shape in ((rows,), (rows, 1))
        if not fits or not np.isfinite(scores).all():
            raise ExportError(
                f"{safety.model} gives {safety.output} as {scores.dtype} {list(scores.shape)}"
                f" for {rows} pictures: float32 [N] or [N, 1] is needed, and no NaN"
            )


def _is_config(file: str) -> bool:
    return file.endswith(f"/{CONFIG_FILE}")
