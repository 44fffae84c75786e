"""The stages that make and check a model's files, in the order in which they run.

Each takes the job and what was made before it, shows a bar, and keeps its outcome for a rerun under
the hash of what decides it (stages.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from exporters import parity, split
from exporters.chain import Chain
from exporters.engines import build_plan, library_for
from exporters.gate import Figure, Pictures, Threshold, require
from exporters.int8_gate import Likeness
from exporters.job import Job
from exporters.measure import ROWS, Cost, Shape, in_words, measure
from exporters.memory import give_back
from exporters.precision import halve
from exporters.preview import Preview
from exporters.progress import Show
from exporters.spec import MODEL_FILE, Component
from exporters.to_onnx import export_onnx


@dataclass
class Made:
    """What there is so far.

    Attributes:
        digests: SHA-256 of each part of the checkpoint.
        onnx: folder of each component's model, by role; its name says what decided it.
        weights: bytes of each component's weights once loaded, by role.
    """

    digests: dict[str, str] = field(default_factory=dict)
    onnx: dict[str, Path] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    int8: dict[str, dict[str, float]] = field(default_factory=dict)  # in place of those figures

    def path(self, role: str) -> Path:
        return self.onnx[role] / MODEL_FILE

    @property
    def paths(self) -> dict[str, Path]:
        return {role: self.path(role) for role in self.onnx}

    @property
    def names(self) -> dict[str, str]:
        return {role: f"{folder.parent.name}/{folder.name}" for role, folder in self.onnx.items()}


def check_weights(job: Job, made: Made, show: Show) -> None:
    """Read all weights once: are they numbers, and what is their hash?"""
    checkpoint = job.checkpoint
    parts = [p for p in (*job.family.parts, *job.family.optional) if job.is_there(p)]
    files = {part: checkpoint.files(part) for part in parts if part != "scheduler"}
    stats = {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for paths in files.values()
        for path in paths
    }
    with show.stage("weights are numbers") as bar:
        bar.total(sum(size for size, _ in stats.values()))

        def make(_: Path) -> dict[str, Any]:
            return {part: checkpoint.check_weights(part, bar.advance) for part in files}

        _, made.digests, _ = job.stages.run("check", {"files": stats}, make)
        bar.note = f"{sum(size for size, _ in stats.values()) / 1e6:.1f} MB"


def trace(job: Job, made: Made, component: Component, show: Show) -> None:
    """One component: ask torch, round, trace, compare.

    Raises:
        ParityError: the graph is not the checkpoint's.
    """
    role = component.role
    parts = job.family.graphs[role].parts(job.checkpoint)
    inputs = {
        "parts": {part: made.digests[part] for part in parts},
        "tokenizers": {p: d for p, d in made.digests.items() if p.startswith("tokenizer")},
        "component": asdict(replace(component, name=role)),
        "precision": job.precision(role),
        "options": asdict(job.checkpoint.options),
        **job.tools,
    }
    with show.stage(f"{role}: torch to ONNX") as bar:
        folder, result, kept = job.stages.run(
            f"onnx-{role}", inputs, lambda folder: _traced(job, component, folder)
        )
        figures = [_figure(entry) for entry in result["figures"]]
        size = sum(file.stat().st_size for file in folder.glob(f"{MODEL_FILE}*"))
        worst = max(figures, key=lambda figure: figure.max_abs_diff)
        bar.note = (
            f"{size / 1e6:.2f} MB, cosine {worst.cosine:.7f}, max abs diff"
            f" {worst.max_abs_diff:.2g}{_kept(kept)}"
        )
    require(figures)
    made.onnx[role], made.weights[role] = folder, result["weights"]
    made.figures += figures


def _traced(job: Job, component: Component, folder: Path) -> dict[str, Any]:
    graph, path = job.family.graphs[component.role], folder / MODEL_FILE
    loaded = {part: job.checkpoint.load(part) for part in graph.parts(job.checkpoint)}
    module = graph.build(loaded, job.checkpoint, job.spec).eval().requires_grad_(False)
    vocabulary = min(len(job.checkpoint.tokenizer(name)) for name in job.tokenizers)
    given = list(parity.feeds(component, job.check_size, job.spec.downscale, vocabulary))
    reference = parity.ask_torch(module, component, given)
    if job.precision(component.role) == "fp16":
        halve(module, job.family.kept)
    weights = export_onnx(
        module, component, path, latent_multiple=job.multiple, downscale=job.spec.downscale
    )
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.new_empty(0)  # torch's tracer remembers them until its next run
    del module, loaded
    give_back()  # torch's copy goes before ONNX Runtime's comes
    gate = job.family.gates[job.precision(component.role)]
    figures = parity.compare_component(component, path, reference, gate)
    return {"weights": weights, "figures": [asdict(figure) for figure in figures]}


def _figure(entry: Mapping[str, Any]) -> Figure:
    return Figure(**(dict(entry) | {"threshold": Threshold(**entry["threshold"])}))


def compare_pictures(job: Job, made: Made, show: Show) -> Pictures:
    """Whole pictures, against diffusers' pipeline.

    Raises:
        ParityError: they are not alike.
    """
    with show.stage("whole pictures, against diffusers") as bar:

        def make(_: Path) -> dict[str, Any]:
            return asdict(Chain(job).compare(made.paths, job.min_psnr, bar.at))

        _, result, kept = job.stages.run("pictures", _drawing_inputs(job, made), make)
        pictures = Pictures(**result)
        bar.note = f"PSNR {pictures.psnr:.1f} dB, {pictures.how}{_kept(kept)}"
    require([pictures])
    return pictures


def fit_preview(job: Job, made: Made, show: Show) -> Preview:
    """What the card says of latents as small pictures, for progress."""
    with show.stage("latents as small pictures, for progress") as bar:

        def make(_: Path) -> dict[str, Any]:
            return asdict(Chain(job).preview(made.paths, bar.at))

        _, result, kept = job.stages.run("preview", _drawing_inputs(job, made), make)
        preview = Preview(**result)
        bar.note = f"PSNR {preview.psnr:.1f} dB, {preview.how}{_kept(kept)}"
    return preview


def quantize(job: Job, made: Made, show: Show) -> None:
    """The denoiser and the decoder in INT8 instead, calibrated on what generations met.

    Raises:
        Int8Error: one is too far from its source.
    """
    with show.stage("INT8, calibrated on generated latents") as bar:

        def make(folder: Path) -> dict[str, Any]:
            found = Chain(job).quantize(made.paths, folder)
            return {role: [asdict(like) for like in likes] for role, likes in found.items()}

        folder, result, _ = job.stages.run("int8", _drawing_inputs(job, made), make)
        likenesses = [(role, Likeness(**like)) for role, likes in result.items() for like in likes]
        bar.note = "; ".join(str(like) for _, like in likenesses)
    for role, like in likenesses:
        made.int8[f"{job.spec.triton_name(role)}.{like.output}"] = like.figures
    for role in made.onnx:
        if (folder / role).is_dir():
            made.onnx[role] = folder / role
            made.weights[role] = made.path(role).stat().st_size


def _drawing_inputs(job: Job, made: Made) -> dict[str, Any]:
    return {
        "onnx": made.names,
        "checkpoint": made.digests,
        "schedule": job.checkpoint.schedule,
        "shape": job.shapes[0],
        "precision": job.request.precision,
        **job.tools,
    }


def cut(job: Job, made: Made, show: Show) -> dict[str, tuple[Path, int]]:
    """The denoiser in parts: folder and bytes of weights of each, by Triton's name.

    Raises:
        ExportError: it has no such parts, or their chain gives other numbers.
    """
    count, source = job.request.parts, made.path("denoiser")
    inputs = {"onnx": made.names["denoiser"], "parts": count, **job.tools}
    with show.stage(f"denoiser in {count} parts") as bar:

        def make(folder: Path) -> dict[str, Any]:
            targets = [folder / str(k) / MODEL_FILE for k in range(1, count + 1)]
            for target in targets:
                target.parent.mkdir()
            parts = split.split(source, targets)
            *_, feed = parity.feeds(job.spec.denoiser, job.check_size, job.spec.downscale, 1)
            error = split.compare_parts(source, targets, feed, job.precision("denoiser"))
            return {"bytes": [part.weight_bytes for part in parts], "error": error}

        folder, result, _ = job.stages.run("parts", inputs, make)
        sizes = ", ".join(f"{size / 1e6:.1f}" for size in result["bytes"])
        bar.note = f"{sizes} MB, {result['error']:.1g} off the whole"
    stem = job.spec.triton_name("denoiser")
    return {
        f"{stem}_{k}of{count}": (folder / str(k), size)
        for k, size in enumerate(result["bytes"], start=1)
    }


def plans(job: Job, made: Made, show: Show) -> dict[str, tuple[Path, int]]:
    """TensorRT engines: folder, and how many profiles it has, by role."""
    found: dict[str, tuple[Path, int]] = {}
    cache = job.request.repository.resolve().parent / ".engines"
    builder = library_for(job.request.engine, job.request.capabilities)
    if builder is None:
        return found
    for component in job.spec.components:
        role = component.role
        with show.stage(f"{role}: {job.request.engine} engine") as bar:
            folder = job.stages.root / f"plan-{role}"
            count, bar.note = build_plan(
                builder, made.path(role), folder, component, job.shapes,
                downscale=job.spec.downscale, cache=cache, tell=bar.at,
            )  # fmt: skip
            found[role] = (folder, count)
    return found


def costs(job: Job, made: Made, show: Show) -> dict[str, dict[str, Cost]]:
    """What each component costs on this machine's CPU, by role, by shape."""
    found: dict[str, dict[str, Cost]] = {}
    down, rows = job.spec.downscale, tuple(n for n in ROWS if n <= job.spec.max_batch_size)
    for width, height in job.shapes:
        by_role = found.setdefault(job.spec.shape(width, height), {})
        shape = Shape(height // down, width // down, down)
        for role in made.onnx:
            with show.stage(f"{role}: cost at {width}x{height}") as bar:
                by_role[role] = _cost(job, made, role, shape, rows)
                bar.note = in_words(by_role[role])
    return found


def _cost(job: Job, made: Made, role: str, shape: Shape, rows: tuple[int, ...]) -> Cost:
    inputs = {"onnx": made.names[role], "shape": asdict(shape), "rows": rows, **job.tools}

    def make(_: Path) -> dict[str, Any]:
        return asdict(measure(made.path(role), shape, rows))

    _, result, _ = job.stages.run(f"cost-{role}", inputs, make)
    seconds = tuple((int(n), float(s)) for n, s in result["seconds"])
    return Cost(**(result | {"seconds": seconds}))


def _kept(found: bool) -> str:
    return " (done before)" if found else ""
