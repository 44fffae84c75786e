"""The export from end to end: check, trace, compare, draw, cut, measure, describe, publish.

Nothing is in the repository before all of it is there, compared and measured; a model that fails is
not published. Every stage's outcome is kept beside the repository until then, so a rerun goes on
where the last one ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atelier.catalog import ModelCard
from exporters import card, guard, making, publishing, repository
from exporters.errors import ExportError
from exporters.gate import Pictures
from exporters.int8_gate import Int8Error
from exporters.job import Job, Request, settle
from exporters.making import Made
from exporters.measure import Cost
from exporters.pbtxt import CONFIG_FILE, render
from exporters.preview import Preview
from exporters.progress import Show
from exporters.spec import MODEL_FILE, MODEL_VERSION, Component, ExportSpec
from exporters.stages import full_disk, is_full
from exporters.to_onnx import OPSET
from exporters.tokenizers import save_tokenizer

_Folders = Mapping[str, tuple[Path, int]]


def export_model(request: Request, show: Show) -> str:
    """Export a checkpoint into a repository; returns the model's version.

    Raises:
        ExportError: the checkpoint, an option, parity or the disk is in the way; nothing was
            published, and what is done is kept for a rerun.
    """
    try:
        return _export(settle(request), show)
    except (OSError, RuntimeError, Int8Error) as error:
        if is_full(error):
            raise ExportError(full_disk(error, request.repository)) from error
        if isinstance(error, RuntimeError):
            raise
        raise ExportError(str(error)) from error


def _export(job: Job, show: Show) -> str:
    request = job.request
    for finished in publishing.recover(request.repository, job.stages.root):
        show.say(f"{finished}: an interrupted export is now published")
    show.say(f"{request.folder}: {job.family.name}, {request.precision}, {request.engine}")
    made = Made()
    making.check_weights(job, made, show)
    for component in job.spec.components:
        making.trace(job, made, component, show)
    if request.precision == "int8":
        making.quantize(job, made, show)
    pictures = making.compare_pictures(job, made, show)
    preview = making.fit_preview(job, made, show)
    parts = making.cut(job, made, show) if request.parts > 1 else {}
    plans = making.plans(job, made, show) if request.engine != "onnxruntime" else {}
    if parts and plans:
        show.say("the parts of the denoiser stay ONNX: ONNX Runtime serves them, no engine")
    costs = making.costs(job, made, show)
    version = _publish(job, made, pictures, preview, parts, plans, costs, show)
    job.stages.clear()
    return version


def _publish(
    job: Job,
    made: Made,
    pictures: Pictures,
    preview: Preview,
    parts: _Folders,
    plans: _Folders,
    costs: Mapping[str, Mapping[str, Cost]],
    show: Show,
) -> str:
    target = job.request.repository
    target.mkdir(parents=True, exist_ok=True)
    with (
        show.stage(f"publish in {target}") as bar,
        publishing.building(job.stages.root) as built,
    ):
        for component in job.spec.components:
            _assemble(job, made, built, component, plans.get(component.role))
        for part, (source, _) in parts.items():
            _copy_models(source, built / part / MODEL_VERSION)
            config = render(repository.part_of(part, source / MODEL_FILE))
            (built / part / CONFIG_FILE).write_text(config)
        spec = repository.shared(built, target, job.spec)
        borrowed = _rename(built, target, job.spec, spec)
        files = _hashes(built, target, spec, parts)
        version = repository.version_of(files, job.schedule)
        text = card.render(
            card.Facts(
                spec=spec,
                kind=job.family.kind,
                family=job.family.name,
                engine=job.request.engine,
                version=version,
                schedule=job.schedule,
                samplers=job.samplers,
                offer=job.offer,
                limits=job.offer.limits(
                    job.shapes, job.multiple * spec.downscale, spec.output_frames
                ),
                weights={c.name: made.weights[c.role] for c in spec.components},
                parts={name: size for name, (_, size) in parts.items()},
                costs=costs,
                figures=made.figures,
                int8=made.int8,
                pictures=pictures,
                preview=preview,
                files=files,
                second_ids=job.second_ids,
                source=_source(job, made),
                precision=_precision(job),
            )
        )
        text = guard.carried(text, target / spec.card_file)
        ModelCard.parse(text)  # a card that its readers refuse is a bug: fail before publishing
        (built / spec.card_file).write_text(text)
        publishing.publish(built, target, spec.card_file)
        bar.note = f"{job.request.name}, version {version[:12]}" + (
            f"; shared: {', '.join(borrowed)}" if borrowed else ""
        )
    return version


def _assemble(
    job: Job, made: Made, built: Path, component: Component, plan: tuple[Path, int] | None
) -> None:
    """One Triton model: its config, the file that is loaded, and the tokenizers with the text."""
    folder = built / component.name
    if plan:
        shutil.copytree(plan[0], folder / MODEL_VERSION)
    else:
        _copy_models(made.onnx[component.role], folder / MODEL_VERSION)
    profiles = plan[1] if plan else 1
    (folder / CONFIG_FILE).write_text(render(component, job.request.engine, profiles))
    if component.role == "text_encoder":
        for name, place in zip(job.tokenizers, (folder, folder / "second"), strict=False):
            save_tokenizer(job.checkpoint.tokenizer(name), place)


def _rename(built: Path, target: Path, own: ExportSpec, settled: ExportSpec) -> list[str]:
    """Give components the names that they got; those of another model are not written."""
    borrowed = []
    for before, after in zip(own.components, settled.components, strict=True):
        if before.name == after.name:
            continue
        if (target / after.name).is_dir():
            shutil.rmtree(built / before.name)
            borrowed.append(after.name)
            continue
        (built / before.name).rename(built / after.name)
        config = built / after.name / CONFIG_FILE
        config.write_text(config.read_text().replace(f'"{before.name}"', f'"{after.name}"'))
    return borrowed


def _hashes(built: Path, target: Path, spec: ExportSpec, parts: _Folders) -> dict[str, str]:
    """SHA-256 of every file of the model, those of another model's components too."""
    files: dict[str, str] = {}
    for folder in (*(component.name for component in spec.components), *parts):
        root = built if (built / folder).is_dir() else target
        files |= repository.hashes(root, (folder,))
    return files


def _source(job: Job, made: Made) -> dict[str, Any]:
    return {
        "licence": job.checkpoint.licence,
        "pipeline": str(job.checkpoint.index.get("_class_name", "")),
        "opset": OPSET,
        "tools": job.tools["tools"],
        "checkpoint": made.digests,
    }


def _precision(job: Job) -> dict[str, Any]:
    name = job.request.precision
    kept = [rule.told for rule in job.family.kept]
    return {"name": name, **({"kept_in_fp32": kept} if name == "fp16" else {})}


def _copy_models(source: Path, target: Path) -> None:
    """Model files of a stage, as hard links where the disk can: a copy may be gigabytes."""
    target.mkdir(parents=True)
    for path in sorted(source.glob(f"{MODEL_FILE}*")):
        try:
            (target / path.name).hardlink_to(path)
        except OSError:
            shutil.copy2(path, target / path.name)
