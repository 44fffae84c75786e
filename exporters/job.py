"""What is asked of an export, and what follows from it before any weight is read."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from atelier.catalog import ModelCard
from exporters.card import fitting, noise_schedule
from exporters.checkpoint import Checkpoint, Options
from exporters.engines import library_for
from exporters.errors import CheckpointError, ExportError
from exporters.families import family_of
from exporters.families.family import Family
from exporters.offer import KNOWN, Offer
from exporters.pbtxt import Engine
from exporters.precision import kept_whole
from exporters.spec import ExportSpec, Precision
from exporters.stages import Stages

PRECISIONS = ("fp32", "fp16", "int8")
_TOOLS = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime")
_HERE = Path(__file__).parent
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        shapes: widths and heights in pixels, the default first; none for what it was trained on.
        samplers: the default first; none for the family's.
        parts: into how many models the denoiser is cut as well; 1 for none.
        capabilities: that TensorRT-RTX builds for, such as SM86; none for its usual ones.
    """

    folder: Path
    name: str
    repository: Path
    family: str = "auto"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    engine: Engine = "onnxruntime"
    shapes: Sequence[tuple[int, int]] = ()
    max_batch: int = 16
    samplers: Sequence[str] = ()
    parts: int = 1
    capabilities: Sequence[str] = ()
    options: Options = field(default_factory=Options)


@dataclass(frozen=True)
class Job:
    """A request with everything settled that the checkpoint's own words decide.

    Attributes:
        schedule: the card's table.
        shapes: widths and heights in pixels, the default first.
        multiple: sides of the latents are multiples of it.
        stages: what is kept of it for a rerun.
    """

    request: Request
    checkpoint: Checkpoint
    family: Family
    spec: ExportSpec
    schedule: Mapping[str, Any]
    samplers: Sequence[str]
    shapes: Sequence[tuple[int, int]]
    multiple: int
    stages: Stages

    @property
    def min_psnr(self) -> float:
        """What whole pictures must keep to, in dB."""
        if self.request.precision == "int8":
            return self.family.int8.min_psnr
        return self.family.gates[self.request.precision].min_psnr

    def precision(self, role: str) -> Precision:
        """Of a component's graph as it is traced; INT8 is made of FP32."""
        fp16 = self.request.precision == "fp16" and not kept_whole(role, self.family.kept)
        return "fp16" if fp16 else "fp32"

    def is_there(self, part: str) -> bool:
        """Whether the checkpoint has the folder of an optional part."""
        return (self.checkpoint.folder / part).is_dir()

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Folders of the tokenizers whose files the agent gets, in the order of their ids."""
        return tuple(name for name in self.family.tokenizers if self.is_there(name))

    @property
    def second_ids(self) -> int:
        """Ids of a prompt by the second tokenizer, 0 if there is none."""
        if len(self.tokenizers) < 2:
            return 0
        first = int(self.checkpoint.configs["text_encoder"]["max_position_embeddings"])
        return self.spec.ids - first

    @property
    def check_size(self) -> tuple[int, int]:
        """Height and width of the latents that components are compared at: small and odd."""
        return 5 * self.multiple, 3 * self.multiple

    @property
    def offer(self) -> Offer:
        """What people chose to offer of this model, or what its family's users expect."""
        defaults, (width, height) = self.family.defaults, self.shapes[0]
        what = "text to image" if self.family.kind == "image" else "text to video"
        name = self.request.name
        return KNOWN.get(name) or Offer(
            description=f"{name}: {what}, {width}x{height} pixels.",
            steps=defaults.steps,
            guidance=defaults.guidance,
            max_guidance=defaults.max_guidance,
            max_steps=defaults.max_steps,
            presets=defaults.presets,
        )

    @cached_property
    def tools(self) -> dict[str, Any]:
        """Versions that decide what a stage writes: the libraries' and our own code's.

        Not exporters/tensorrt's, which makes no stage: its cache knows engines by that code too.
        """
        code = hashlib.sha256()
        for path in sorted([*_HERE.glob("*.py"), *_HERE.glob("families/*.py")]):
            code.update(path.read_bytes())
        tools = {name: importlib.metadata.version(name) for name in _TOOLS}
        return {"tools": tools, "code": code.hexdigest()}


def settle(request: Request) -> Job:
    """Read what the checkpoint says of itself, and refuse what cannot be.

    Raises:
        ExportError: a file is missing, or an option does not fit the checkpoint; names it.
    """
    if not _NAME.fullmatch(request.name):
        raise ExportError(
            f"--name {request.name!r}: say letters and digits, with . _ - between them; files are"
            " named by it"
        )
    checkpoint = Checkpoint.open(request.folder, request.options)
    family = family_of(checkpoint.index, checkpoint.configs, request.family)
    checkpoint.require(family.parts)
    if request.precision not in PRECISIONS:
        raise ExportError(f"--precision {request.precision}: there are {', '.join(PRECISIONS)}")
    if request.engine != "onnxruntime" and request.precision == "int8":
        raise ExportError("--precision int8 is for --engine onnx; TensorRT takes fp16 or fp32")
    library_for(request.engine, request.capabilities)  # if it is not here, nothing need be traced
    schedule = noise_schedule(checkpoint.schedule)
    try:
        spec = replace(family.spec(checkpoint, request.name), max_batch_size=request.max_batch)
        multiple, native = family.multiple(checkpoint), family.native(checkpoint, spec)
    except KeyError as error:
        raise CheckpointError(f"{request.folder}: no config.json there says {error}") from error
    _require_place(request, spec.card_file)
    return Job(
        request=request,
        checkpoint=checkpoint,
        family=family,
        spec=spec,
        schedule=schedule,
        samplers=_samplers(request, family, schedule),
        shapes=_shapes(request.shapes or [native], multiple * spec.downscale),
        multiple=multiple,
        stages=Stages(request.repository.resolve().parent / f".export-{spec.stem}"),
    )


def _require_place(request: Request, card_file: str) -> None:
    """Raises: ExportError, where publishing would fail in the end or take another model's files."""
    repository, card = request.repository, request.repository / card_file
    if card.is_file():
        try:
            owner = ModelCard.parse(card.read_text()).name
        except ValueError as error:
            raise ExportError(
                f"{card}: not a card, and this export's would lie there: {error}"
            ) from error
        if owner != request.name:
            raise ExportError(f"--name {request.name}: {card} is {owner}'s; choose another name")
    if not repository.is_dir():
        return
    # Tried, because a mount of the same disk elsewhere (a container's volume) shows in no number.
    with tempfile.TemporaryDirectory(prefix=".try-", dir=repository.resolve().parent) as folder:
        tried = Path(folder) / "tried"
        tried.touch()
        moved = repository / Path(folder).name
        try:
            tried.rename(moved).unlink()
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise ExportError(
                f"--repository {repository}: mounted by itself, so what is made beside it cannot"
                f" be moved in whole; name a folder inside of it, such as {repository / 'models'}"
            ) from error


def _samplers(request: Request, family: Family, schedule: Mapping[str, Any]) -> list[str]:
    known = fitting(family.samplers, schedule)
    if not known:
        raise ExportError(
            f"scheduler/scheduler_config.json: none of {family.name}'s samplers"
            f" ({', '.join(family.samplers)}) is for a model that predicts {schedule['prediction']}"
        )
    if strange := [name for name in request.samplers if name not in known]:
        raise ExportError(f"--samplers {', '.join(strange)}: this model takes {', '.join(known)}")
    return list(request.samplers) or known


def _shapes(wanted: Sequence[tuple[int, int]], unit: int) -> list[tuple[int, int]]:
    for width, height in wanted:
        if width % unit or height % unit or width < unit or height < unit:
            raise ExportError(f"--shapes {width}x{height}: both must be multiples of {unit}")
    return list(wanted)
