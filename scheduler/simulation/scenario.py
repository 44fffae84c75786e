"""Scenario folders: fleet.json, models.json, scenario.json and trace.csv, read and written.

Version 1. Optional: `nodes` with `host_mem_gb` in the fleet; of a model, `load_host_s`, and
`shared`, the parts of its weights that other models have too (a list of {name, weights_gb}; a
device holds a part once, and a load takes the share of its time that is missing); and the trace's
columns `deadline` (seconds from the beginning; from then on a request may be refused) and `group`
(pictures of one request). Who does not know them may ignore them.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from scheduler.model import Model, Shape
from scheduler.runqueue import Ticket
from scheduler.simulation.world import Gpu, Scenario

VERSION = 1
GB = 1e9  # bytes
COLUMNS = ("id", "t", "tenant", "priority", "model", "shape", "steps", "slo_s", "deadline", "group")
REQUIRED = COLUMNS[:8]


class ScenarioError(ValueError):
    """A scenario that cannot be used; the message names the file, the place and the field."""


def read(folder: Path) -> Scenario:
    """Read a folder. Raises ScenarioError."""
    about = _Part.of(folder, "scenario.json")
    fleet = _Part.of(folder, "fleet.json")
    models = {m.name: m for m in map(_model, _Part.of(folder, "models.json").parts("models"))}
    _same_sizes(models)
    gpus = tuple(map(_gpu, fleet.parts("gpus")))
    if not gpus:
        fleet.wrong("gpus", "no devices")
    ids = {gpu.id for gpu in gpus}
    return Scenario(
        name=folder.resolve().name,
        horizon=about.number("horizon_s", more_than=0),
        warmup=about.number("warmup_s", 0.0),
        gpus=gpus,
        models=models,
        requests=_trace(folder / "trace.csv", models),
        failures=tuple(_failure(part, ids) for part in fleet.parts("failures", optional=True)),
        checkpoint_steps=int(fleet.number("checkpoint_steps", 10, least=1)),
        seed=int(about.number("seed", 0)),
        rho=about.number("rho", 0.0),
        host_memory={
            str(part.value("id")): part.number("host_mem_gb", 0.0) * GB
            for part in fleet.parts("nodes", optional=True)
        },
    )


def write(scenario: Scenario, folder: Path) -> None:
    """Write a folder that `read` reads to the same scenario."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "version": VERSION, "horizon_s": scenario.horizon, "warmup_s": scenario.warmup,
        "tenants": len({t.tenant for t in scenario.requests}),
        "rho": scenario.rho, "seed": scenario.seed,
    }  # fmt: skip
    fleet: dict[str, Any] = {
        "version": VERSION,
        "gpus": [
            {"id": _id(g.id), "node": _id(g.node), "mem_gb": _gb(g.memory), "speed": g.speed,
             "type": g.type}
            for g in scenario.gpus
        ],
        "failures": [{"t": t, "event": event, "gpu": _id(g)} for t, event, g in scenario.failures],
        "checkpoint_steps": scenario.checkpoint_steps,
    }  # fmt: skip
    if scenario.host_memory:
        fleet["nodes"] = [
            {"id": _id(node), "host_mem_gb": _gb(memory)}
            for node, memory in scenario.host_memory.items()
        ]
    models = {"version": VERSION, "models": [_as_json(m) for m in scenario.models.values()]}
    for name, content in (("scenario", about), ("fleet", fleet), ("models", models)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    grouped = any(t.group for t in scenario.requests)
    with (folder / "trace.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS if grouped else COLUMNS[:-1])
        for t in scenario.requests:
            deadline = "" if t.deadline == math.inf else f"{t.deadline:.6f}"
            row = [int(t.id), f"{t.submitted:.6f}", t.tenant, t.level, t.model, t.shape, t.steps,
                   f"{t.slo:.6f}", deadline]  # fmt: skip
            table.writerow([*row, t.group] if grouped else row)


class _Part:
    """An object inside a JSON file, which knows where it stands."""

    def __init__(self, raw: object, where: str) -> None:
        if not isinstance(raw, dict):
            raise ScenarioError(f"{where}: an object is wanted here")
        self.raw: Mapping[str, Any] = raw
        self.where = where

    @classmethod
    def of(cls, folder: Path, name: str) -> _Part:
        try:
            part = cls(json.loads((folder / name).read_text()), name)
        except OSError as error:
            raise ScenarioError(f"{name}: {error.strerror} in {folder}") from error
        except json.JSONDecodeError as error:
            raise ScenarioError(f"{name} line {error.lineno}: {error.msg}") from error
        if part.number("version", VERSION) != VERSION:
            part.wrong("version", f"{part.raw['version']} is not known; {VERSION} is")
        return part

    def wrong(self, field: str, why: str) -> NoReturn:
        raise ScenarioError(f"{self.where}: {field}: {why}")

    def value(self, field: str, default: object = None) -> Any:
        found = self.raw.get(field, default)
        if found is None:
            self.wrong(field, "missing")
        return found

    def number(
        self, field: str, default: float | None = None, *, least: float = 0.0,
        more_than: float = -math.inf,
    ) -> float:  # fmt: skip
        found = self.value(field, default)
        if isinstance(found, bool) or not isinstance(found, int | float):
            self.wrong(field, f"{found!r} is not a number")
        if not (math.isfinite(found) and found >= least and found > more_than):
            self.wrong(field, f"{found} is out of range")
        return float(found)

    def parts(self, field: str, *, optional: bool = False) -> list[_Part]:
        found = self.value(field, [] if optional else None)
        if not isinstance(found, list):
            self.wrong(field, "a list is wanted here")
        return [_Part(raw, f"{self.where}: {field}[{i}]") for i, raw in enumerate(found)]


def _gpu(part: _Part) -> Gpu:
    memory = part.number("mem_gb", more_than=0) * GB
    speed = part.number("speed", 1.0, more_than=0)
    kind = str(part.value("type", ""))
    return Gpu(str(part.value("id")), str(part.value("node", 0)), memory, speed, kind)


def _failure(part: _Part, gpus: set[str]) -> tuple[float, str, str]:
    event, gpu = part.value("event"), str(part.value("gpu"))
    if event not in ("fail", "recover"):
        part.wrong("event", f"{event!r} is neither fail nor recover")
    if gpu not in gpus:
        part.wrong("gpu", f"no device has the id {gpu}")
    return part.number("t"), event, gpu


def _model(part: _Part) -> Model:
    gang = int(part.number("gang", 1, least=1))
    load = part.number("load_s")
    shapes = {str(shape.value("name")): _shape(shape) for shape in part.parts("shapes")}
    if not shapes:
        part.wrong("shapes", "no shapes")
    host = min(load, part.number("load_host_s")) if "load_host_s" in part.raw else None
    weights = part.number("weights_gb", more_than=0) * GB / gang
    shared = {
        str(piece.value("name")): piece.number("weights_gb") * GB
        for piece in part.parts("shared", optional=True)
    }
    if shared and gang > 1:
        part.wrong("shared", "a gang's model is split over devices and shares nothing")
    if sum(shared.values()) > weights * (1 + 1e-9):
        part.wrong("shared", "the parts are larger than weights_gb")
    return Model(str(part.value("name")), weights, load, shapes, gang, host, shared)


def _same_sizes(models: Mapping[str, Model]) -> None:
    sizes: dict[str, float] = {}
    for model in models.values():
        for name, size in model.shared.items():
            if sizes.setdefault(name, size) != size:
                raise ScenarioError(
                    f"models.json: shared: {name} has {_gb(size)} GB in {model.name}, and"
                    f" {_gb(sizes[name])} GB in another model"
                )


def _shape(part: _Part) -> Shape:
    return Shape(
        step_a=part.number("step_a_s"),
        step_c=part.number("step_c_s"),
        decode=part.number("decode_s"),
        activation=part.number("act_gb") * GB,
        batch_cap=int(part.number("max_batch", least=1)),
        latent_mb=part.number("latent_mb", 0.1),
    )


def _as_json(model: Model) -> dict[str, Any]:
    shapes = [
        {"name": name, "step_a_s": s.step_a, "step_c_s": s.step_c, "act_gb": _gb(s.activation),
         "decode_s": s.decode, "latent_mb": s.latent_mb, "max_batch": s.batch_cap}
        for name, s in model.shapes.items()
    ]  # fmt: skip
    entry = {"name": model.name, "weights_gb": _gb(model.weights * model.gang),
             "load_s": model.load, "gang": model.gang, "shapes": shapes}  # fmt: skip
    if model.load_host is not None:
        entry["load_host_s"] = model.load_host
    if model.shared:
        entry["shared"] = [
            {"name": name, "weights_gb": _gb(size)} for name, size in model.shared.items()
        ]
    return entry


def _trace(path: Path, models: Mapping[str, Model]) -> tuple[Ticket, ...]:
    try:
        file = path.open(newline="")
    except OSError as error:
        raise ScenarioError(f"{path.name}: {error.strerror} in {path.parent}") from error
    with file:
        rows = csv.DictReader(file)
        missing = [name for name in REQUIRED if name not in (rows.fieldnames or ())]
        if missing:
            raise ScenarioError(f"{path.name} line 1: no column {', '.join(missing)}")
        tickets, seen = [], set()
        for row in rows:
            ticket = _request(row, models, f"{path.name} line {rows.line_num}")
            if ticket.id in seen:
                raise ScenarioError(f"{path.name} line {rows.line_num}: id: {row['id']} again")
            seen.add(ticket.id)
            tickets.append(ticket)
    return tuple(sorted(tickets, key=lambda t: (t.submitted, t.id)))


def _request(row: Mapping[str, str | None], models: Mapping[str, Model], where: str) -> Ticket:
    def number(field: str, least: float = 0.0, whole: bool = False) -> float:
        text = row[field] or ""
        try:
            found = float(int(text)) if whole else float(text)
        except ValueError as error:
            raise ScenarioError(f"{where}: {field}: {text!r} is not a number") from error
        if not (math.isfinite(found) and found >= least):
            raise ScenarioError(f"{where}: {field}: {text} is out of range")
        return found

    level = int(number("priority", whole=True))
    if level > 2:
        raise ScenarioError(f"{where}: priority: {level} is not 0, 1 or 2")
    model = models.get(row["model"] or "")
    if model is None:
        raise ScenarioError(f"{where}: model: {row['model']!r} is not in models.json")
    if row["shape"] not in model.shapes:
        raise ScenarioError(f"{where}: shape: {model.name} has no {row['shape']!r}")
    return Ticket(
        id=f"{int(number('id', whole=True)):08d}",
        tenant=row["tenant"] or "",
        model=model.name,
        shape=row["shape"] or "",
        rows=1,
        steps=int(number("steps", 1, whole=True)),
        level=level,
        submitted=number("t"),
        deadline=number("deadline") if row.get("deadline") else math.inf,
        slo=number("slo_s"),
        group=row.get("group") or "",
    )


def _id(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _gb(size: float) -> float:
    return round(size / GB, 6)
