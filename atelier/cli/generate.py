"""`atelier generate`: from a prompt to files, with a progress bar."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import urllib3
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from atelier.cli import files, picture, problems
from atelier.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

MOST_BYTES = 64 * 2**20  # of one answer: a few inline pictures
CANCEL_SECONDS = 3.0
Phase = generation_pb2.Phase


@dataclass(frozen=True)
class Wish:
    """What to make. None: the model's own default."""

    prompt: str
    model: str = ""  # empty: the first that makes pictures
    negative: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    count: int | None = None

    def request(self, model: model_pb2.Model) -> generation_pb2.GenerateRequest:
        """The wish as the gateway takes it."""
        request = generation_pb2.GenerateRequest(inline_results=True)
        request.create.model = model.name
        video = model.kind == model_pb2.MODEL_KIND_VIDEO
        spec = request.create.video if video else request.create.image
        spec.prompt, spec.negative_prompt = self.prompt, self.negative
        names = ("width", "height", "steps", "guidance", "seed", *(() if video else ("count",)))
        for name in names:
            if (value := getattr(self, name)) is not None:
                setattr(spec, name, value)
        return request


async def generate(address: str, wish: Wish, out: Path, console: Console) -> list[Path]:
    """Make what is wished for, write it, show it; the files that were written.

    Raises:
        ProblemError: it could not be made, or not written.
    """
    began = time.monotonic()
    files.make_folder(out)  # before anything is drawn for nothing
    options = (("grpc.max_receive_message_length", MOST_BYTES),)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        try:
            model = await _model(channel, wish.model)
            generation = await _follow(channel, wish.request(model), console)
        except grpc.aio.AioRpcError as error:
            raise problems.of_call(error, address) from error
    if generation.state != generation_pb2.GENERATION_STATE_SUCCEEDED:
        raise problems.of_generation(generation)
    written = files.paths(out, wish.prompt, generation)
    seconds = time.monotonic() - began
    for path, result in zip(written, generation.results, strict=True):
        content = result.inline_data or await asyncio.to_thread(_download, result)
        if hashlib.sha256(content).hexdigest() != result.sha256:
            raise problems.ProblemError([f"result {result.index} was damaged on its way here"])
        files.write(path, content)
        if result.content_type.startswith("image/"):
            picture.show(console, content, _means(console))
        console.print(
            f"[bold]{escape(str(path))}[/]  {result.width}x{result.height}"
            f"  seed {result.seed}  {seconds:.1f} s  {escape(model.name)}",
            soft_wrap=True,
            highlight=False,
        )
    return written


async def _model(channel: grpc.aio.Channel, name: str) -> model_pb2.Model:
    """The model named, else the first one that makes pictures."""
    service = model_pb2_grpc.ModelServiceStub(channel)
    if name:
        one: model_pb2.GetModelResponse = await service.GetModel(
            model_pb2.GetModelRequest(name=name)
        )
        return one.model
    all_: model_pb2.ListModelsResponse = await service.ListModels(model_pb2.ListModelsRequest())
    for model in all_.models:
        if model.kind == model_pb2.MODEL_KIND_IMAGE:
            return model
    raise problems.ProblemError(["no model here makes pictures: `atelier doctor` says why"])


async def _follow(
    channel: grpc.aio.Channel, request: generation_pb2.GenerateRequest, console: Console
) -> generation_pb2.Generation:
    """Watch the generation to its end, and cancel it if we are not wanted any more."""
    service = generation_pb2_grpc.GenerationServiceStub(channel)
    generation = generation_pb2.Generation()
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
        TextColumn("{task.fields[count]}"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("asking", total=None, count="")
        try:
            async for answer in service.Generate(request):
                generation = answer.generation
                at = generation.progress
                steps = at.phase >= Phase.PHASE_DENOISING and at.total_steps > 0
                progress.update(
                    bar,
                    description=describe(generation),
                    total=at.total_steps if steps else None,
                    completed=at.step if steps else 0,
                    count=f"{at.step}/{at.total_steps}" if steps else "",
                )
        except asyncio.CancelledError:
            if generation.id:
                stop = generation_pb2.CancelGenerationRequest(id=generation.id)
                with suppress(grpc.aio.AioRpcError):
                    await service.CancelGeneration(stop, timeout=CANCEL_SECONDS)
            raise
    return generation


def describe(generation: generation_pb2.Generation) -> str:
    """What a generation is doing, in a few words."""
    at = generation.progress
    words = {
        Phase.PHASE_LOADING: f"loading {generation.model}",
        Phase.PHASE_ENCODING_TEXT: "reading the prompt",
        Phase.PHASE_DENOISING: "denoising",
        Phase.PHASE_DECODING: "decoding",
        Phase.PHASE_UPLOADING: "uploading",
    }
    if at.phase in words:
        return words[at.phase]
    return f"queued, {at.queue_position} before it" if at.queue_position else "queued"


def _means(console: Console) -> picture.Means:
    truecolor = console.color_system == "truecolor"
    return picture.choose(os.environ, terminal=console.is_terminal, truecolor=truecolor)


def _download(result: generation_pb2.Result) -> bytes:
    """A result too large to come inline."""
    try:
        answer = urllib3.request("GET", result.url, timeout=60.0)
    except urllib3.exceptions.HTTPError as error:
        raise problems.ProblemError([f"result {result.index}: {error}"]) from error
    if answer.status != 200:
        raise problems.ProblemError([f"result {result.index}: the store says {answer.status}"])
    return answer.data
