"""The client for plain code; async_client.py is the same for asyncio, call by call."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from atelier.client import files, listing
from atelier.client.failures import FINAL, GenerationError, Tries
from atelier.client.line import OPTIONS, Tls, metadata
from atelier.client.requests import with_request_id
from atelier.errors import AtelierError
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc

CALL_SECONDS = 60.0
_chance = random.SystemRandom().random
Progress = Callable[[pb.Generation], object]


class Client:
    """A line to a gateway. It may be used by several threads at once.

    Every method raises AtelierError for what the gateway refuses, or for what lasted over all
    tries: its `code` is gRPC's, its `reason` stable, its `violations` name each field at fault, and
    `retry_after_seconds` says when another try may go through. `timeout` is in seconds and holds
    for all tries together; None is no end.

    Args:
        address: host:port.
        key: an API key. Without `tls` it goes over the network in clear.
        tls: encryption; None: none.
        pausing: told of each error after which a call is made again, and in how many seconds.
    """

    def __init__(
        self,
        address: str,
        *,
        key: str | None = None,
        tls: Tls | None = None,
        pausing: Callable[[AtelierError, float], None] | None = None,
    ) -> None:
        self._channel = (
            grpc.secure_channel(address, tls.credentials(), options=OPTIONS)
            if tls
            else grpc.insecure_channel(address, options=OPTIONS)
        )
        self._door = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._metadata = metadata(key)
        self._pausing = pausing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; calls under way are cut off."""
        self._channel.close()

    def models(self, *, timeout: float | None = CALL_SECONDS) -> Sequence[model_pb2.Model]:
        """The models, with their limits and defaults."""
        answer = self._ask(self._models.ListModels, model_pb2.ListModelsRequest(), timeout)
        return list(answer.models)

    def create(
        self, request: pb.CreateGenerationRequest, *, timeout: float | None = CALL_SECONDS
    ) -> pb.Generation:
        """Have a generation accepted; once this returns it is durable. See `image` and `video`."""
        request = with_request_id(request)
        answer = self._ask(self._door.CreateGeneration, request, timeout)
        return _generation(answer)

    def get(
        self,
        generation_id: str,
        *,
        inline_results: bool = False,
        timeout: float | None = CALL_SECONDS,
    ) -> pb.Generation:
        """A generation as it stands, with fresh URLs."""
        request = pb.GetGenerationRequest(id=generation_id, inline_results=inline_results)
        return _generation(self._ask(self._door.GetGeneration, request, timeout))

    def cancel(self, generation_id: str, *, timeout: float | None = CALL_SECONDS) -> pb.Generation:
        """Cancel it. One that ended before is answered as it is; one that runs may still say
        RUNNING until its step is over."""
        request = pb.CancelGenerationRequest(id=generation_id)
        return _generation(self._ask(self._door.CancelGeneration, request, timeout))

    def list(
        self,
        *,
        states: Sequence[pb.GenerationState.ValueType] = (),
        model: str = "",
        labels: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 0,
        timeout: float | None = CALL_SECONDS,
    ) -> Iterator[pb.Generation]:
        """All generations that fit, newest first, read page by page as they are asked for.

        Args:
            timeout: of each page.
        """
        wanted = listing.wanted(states, model, labels, created_after, created_before)
        token, more = "", True
        while more:
            page = pb.ListGenerationsRequest(page_size=page_size, page_token=token, filter=wanted)
            answer = self._ask(self._door.ListGenerations, page, timeout)
            yield from answer.generations
            token = answer.next_page_token
            more = bool(token)

    def watch(
        self, generation_id: str, *, inline_results: bool = False, timeout: float | None = None
    ) -> Iterator[pb.Generation]:
        """Its views, first as it stands, then at each change, to its final state. The stream is
        opened again where it breaks: no end is missed, and no view told twice in a row."""
        request = pb.WatchGenerationRequest(id=generation_id, inline_results=inline_results)
        tries, last = self._tries(timeout), None
        while last is None or last.state not in FINAL:
            call = self._door.WatchGeneration(
                request, timeout=tries.left(), metadata=self._metadata
            )
            try:
                for answer in call:
                    tries.went_well()
                    if answer.generation != last:
                        last = answer.generation
                        yield last
            except grpc.RpcError as error:
                time.sleep(tries.pause_after(error))
            finally:
                call.cancel()

    def wait(
        self,
        generation_id: str,
        *,
        inline_results: bool = False,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> pb.Generation:
        """The generation, once it has succeeded. It goes on if the caller does not.

        Args:
            progress: told of each view.

        Raises:
            GenerationError: it failed, expired or was cancelled.
        """
        for view in self.watch(generation_id, inline_results=inline_results, timeout=timeout):
            last = view
            if progress:
                progress(view)
        if last.state != pb.GENERATION_STATE_SUCCEEDED:
            raise GenerationError(last)
        return last

    def generate(
        self,
        request: pb.CreateGenerationRequest,
        *,
        inline_results: bool = False,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> pb.Generation:
        """`create`, then `wait`. `timeout` holds for either."""
        made = self.create(request, timeout=CALL_SECONDS if timeout is None else timeout)
        return self.wait(made.id, inline_results=inline_results, progress=progress, timeout=timeout)

    def generate_to_file(
        self,
        request: pb.CreateGenerationRequest,
        path: str | Path,
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Sequence[Path]:
        """`generate`, and write what was made: to `path`, or path-0, path-1, ... where there are
        several.

        Raises:
            GenerationError: it failed, expired or was cancelled.
            OSError: it cannot be written there.
        """
        made = self.generate(request, inline_results=True, progress=progress, timeout=timeout)
        return files.write(Path(path), made)

    def _tries(self, timeout: float | None) -> Tries:
        return Tries(timeout, clock=time.monotonic, chance=_chance, pausing=self._pausing)

    def _ask(self, method: Callable[..., Any], request: object, timeout: float | None) -> Any:
        tries = self._tries(timeout)
        while True:
            try:
                return method(request, timeout=tries.left(), metadata=self._metadata)
            except grpc.RpcError as error:
                time.sleep(tries.pause_after(error))


def _generation(answer: Any) -> pb.Generation:
    found: pb.Generation = answer.generation
    return found
