"""`atelier generate` and `atelier get`: from a prompt to files, with a progress bar."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import grpc
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from atelier.cli import files, picture, problems
from atelier.cli.where import Gateway, line_to, program
from atelier.cli.wish import Wish
from atelier.client import files as results
from atelier.errors import AtelierError
from atelier.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc

CANCEL_SECONDS = 3.0
AGAIN_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further call, where the gateway is away
Phase = generation_pb2.Phase
_ENDED = (
    generation_pb2.GENERATION_STATE_SUCCEEDED,
    generation_pb2.GENERATION_STATE_FAILED,
    generation_pb2.GENERATION_STATE_EXPIRED,
)


async def generate(where: Gateway, wish: Wish, out: Path, console: Console) -> list[Path]:
    """Make what is wished for, write it, show it; the files that were written.

    Raises:
        ProblemError: it could not be made, or not written.
    """
    began = time.monotonic()
    files.make_folder(out)  # before anything is drawn for nothing
    async with line_to(where) as channel:
        request = wish.request(await _model(channel, wish))
        service = generation_pb2_grpc.GenerationServiceStub(channel)
        course = _Course(where, console)
        try:
            generation = await course.follow(lambda: service.Generate(request))
        except asyncio.CancelledError:
            if course.generation.id:
                await _cancel(service, course.generation.id, where, console)
            raise
    return await _keep(generation, out, console, time.monotonic() - began)


async def get(where: Gateway, id_: str, out: Path, console: Console) -> list[Path]:
    """Wait for a generation that was asked for earlier, write it, show it.

    Raises:
        ProblemError: there is none, it could not be made, or not written.
    """
    began = time.monotonic()
    files.make_folder(out)
    request = generation_pb2.WatchGenerationRequest(id=id_, inline_results=True)
    async with line_to(where) as channel:
        service = generation_pb2_grpc.GenerationServiceStub(channel)
        course = _Course(where, console)
        generation = await course.follow(lambda: service.WatchGeneration(request))
    return await _keep(generation, out, console, time.monotonic() - began)


async def _keep(
    generation: generation_pb2.Generation, out: Path, console: Console, seconds: float
) -> list[Path]:
    """Write and show what was made."""
    if generation.state != generation_pb2.GENERATION_STATE_SUCCEEDED:
        raise problems.of_generation(generation)
    prompt = generation.video.prompt or generation.image.prompt
    written = []
    for path, result in zip(files.paths(out, prompt, generation), generation.results, strict=True):
        if result.withheld:
            _say(console, f"result {result.index} was withheld by the safety checker")
            continue
        content = await _fetched(results.content, result)
        files.write(path, content)
        written.append(path)
        small = ""
        if result.thumbnail_url:
            beside = files.small_path(path, result)
            files.write(beside, await _fetched(results.get, result.thumbnail_url, result.index))
            written.append(beside)
            small = f"  and {beside.name}"
        if result.content_type.startswith("image/"):
            picture.show(console, content, _means(console))
        length = f"  {result.duration_seconds:g} s of {result.codec}" if result.frames else ""
        console.print(
            f"[bold]{escape(str(path))}[/]  {result.width}x{result.height}{length}"
            f"  seed {result.seed}  {seconds:.1f} s  {escape(generation.model)}{escape(small)}",
            soft_wrap=True,
            highlight=False,
        )
    if not written:
        line = f"all of it was withheld by the safety checker of {generation.model}"
        raise problems.ProblemError([line, "try another prompt, or another seed"])
    return written


async def _model(channel: grpc.aio.Channel, wish: Wish) -> model_pb2.Model:
    """The model named, else the first one that suits."""
    service = model_pb2_grpc.ModelServiceStub(channel)
    if wish.model:
        one: model_pb2.GetModelResponse = await service.GetModel(
            model_pb2.GetModelRequest(name=wish.model)
        )
        return one.model
    all_: model_pb2.ListModelsResponse = await service.ListModels(model_pb2.ListModelsRequest())
    if model := next((model for model in all_.models if wish.suits(model)), None):
        return model
    if any(Wish("").suits(model) for model in all_.models):
        raise problems.ProblemError(["no model here starts from a picture"], problems.BAD_INPUT)
    raise problems.ProblemError(["no model here makes pictures: `atelier doctor` says why"])


Answer = generation_pb2.GenerateResponse | generation_pb2.WatchGenerationResponse


class _Course:
    """A generation's course, watched to its end even where the gateway goes away meanwhile."""

    def __init__(self, where: Gateway, console: Console) -> None:
        self.generation = generation_pb2.Generation()  # as last seen
        self._where = where
        self._console = console

    async def follow(self, call: Callable[[], AsyncIterator[Answer]]) -> generation_pb2.Generation:
        """The generation at its end.

        Args:
            call: opens the stream of its views, and can do so again at any time.

        Raises:
            ProblemError: nobody answers, or not with a generation.
        """
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(),
            TextColumn("{task.fields[count]}"), TimeElapsedColumn(),
        )  # fmt: skip
        pauses = iter(AGAIN_SECONDS)
        with _Bar(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task("asking", total=None, count="")
            while True:
                try:
                    async for answer in call():
                        self.generation = answer.generation
                        pauses = iter(AGAIN_SECONDS)
                        _show(progress, bar, self.generation)
                    return self.generation
                except grpc.aio.AioRpcError as error:
                    pause = next(pauses, None) if problems.may_pass(error) else None
                    if pause is None:
                        raise self._given_up(error) from error
                    away = problems.away(error)
                    progress.update(bar, description="waiting", total=None, count="")
                    _say(self._console, f"{away}; asking again in {pause:g} s")
                await asyncio.sleep(pause)

    def _given_up(self, error: grpc.aio.AioRpcError) -> problems.ProblemError:
        problem = problems.of_call(error, self._where.address)
        if self.generation.id and problems.may_pass(error):
            command = _get(self.generation.id, self._where)
            problem.lines.append(f"the generation is kept, and goes on; fetch it later: {command}")
        return problem


class _Bar(Progress):
    """A progress bar below a picture of what there is so far, both in place."""

    preview: Text | None = None
    preview_step = 0

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.preview:
            yield self.preview
        yield from super().get_renderables()


def _show(progress: _Bar, bar: TaskID, generation: generation_pb2.Generation) -> None:
    at = generation.progress
    if at.preview and at.preview_step != progress.preview_step:
        progress.preview_step = at.preview_step
        progress.preview = picture.small(progress.console, at.preview, _means(progress.console))
    steps = at.phase >= Phase.PHASE_DENOISING and at.total_steps > 0
    progress.update(
        bar,
        description=describe(generation),
        total=at.total_steps if steps else None,
        completed=at.step if steps else 0,
        count=f"{at.step}/{at.total_steps}" if steps else "",
    )


async def _cancel(
    service: generation_pb2_grpc.GenerationServiceStub, id_: str, where: Gateway, console: Console
) -> None:
    """Cancel a generation that nobody waits for any more, and say how that went."""
    request = generation_pb2.CancelGenerationRequest(id=id_)
    try:
        answer = await service.CancelGeneration(request, timeout=CANCEL_SECONDS)
    except grpc.aio.AioRpcError:
        what = f"goes on: the gateway did not answer; fetch it later: {_get(id_, where)}"
    else:
        # One that is running may still say so until its step is over.
        ended = answer.generation.state in _ENDED
        what = "had ended already" if ended else "is cancelled on the server"
    _say(console, f"the generation {id_} {what}")


def _get(id_: str, where: Gateway) -> str:
    return f"{program('atelier')} get {id_} {where.option}"


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False, markup=False)


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
    colors = console.color_system in ("256", "truecolor")
    return picture.choose(os.environ, terminal=console.is_terminal, colors=colors)


async def _fetched(fetch: Callable[..., bytes], *what: object) -> bytes:
    """What `fetch` gives, in a thread of its own; its errors for a person."""
    try:
        return await asyncio.to_thread(fetch, *what)
    except AtelierError as error:
        raise problems.ProblemError([error.message]) from error
