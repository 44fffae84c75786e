"""Submits on their way to the scheduler, several in one message.

What comes while a message is under way goes in the next one, as submits share commits behind it: a
call between two processes costs both of them more than all else that is done for a submit. One that
comes alone leaves at once. With two messages under way each is half as large, and a submit costs
the scheduler half as much again (docs/door.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from atelier.errors import UnavailableError
from atelier.status import of_status
from atelier.v1 import generation_pb2
from atelier.v1 import scheduler_pb2 as pb
from gateway.batches import in_messages

MOST = 256  # in a message; the scheduler commits as many together

Send = Callable[[pb.SubmitGenerationsRequest], Awaitable[pb.SubmitGenerationsResponse]]
Waiting = tuple[pb.SubmitGenerationRequest, "asyncio.Future[generation_pb2.Generation]"]


class Submits:
    """Of one event loop.

    Args:
        send: what a message goes by, within a time of its own.
        patience_seconds: for a submit, also where it waits for the message before.
    """

    def __init__(self, send: Send, patience_seconds: float) -> None:
        self._send = send
        self._patience_seconds = patience_seconds
        self._waiting: list[Waiting] = []
        self._under_way: asyncio.Task[None] | None = None
        self._sending = False  # before the loop has its next turn

    async def submit(self, request: pb.SubmitGenerationRequest) -> generation_pb2.Generation:
        """What stands for it once it is durable. Who is cancelled before it left has not submitted.

        Raises:
            AtelierError: it was not taken; UnavailableError where that took too long.
            grpc.aio.AioRpcError: the message that it went in was not answered.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[generation_pb2.Generation] = loop.create_future()
        self._waiting.append((request, future))
        if not self._sending:
            self._sending = True
            loop.call_soon(self._send_on)  # with all that comes in this turn
        too_late = loop.call_later(self._patience_seconds, _give_up, future)
        try:
            return await future
        finally:
            too_late.cancel()

    def _send_on(self) -> None:
        self._sending = False
        while self._waiting and not self._under_way:
            wanted = [one for one in self._waiting[:MOST] if not one[1].done()]
            message = next(in_messages(request for request, _ in wanted), [])
            together, left = wanted[: len(message)], wanted[len(message) :]
            self._waiting = left + self._waiting[MOST:]
            if together:
                self._under_way = asyncio.create_task(self._call(together))

    async def _call(self, together: list[Waiting]) -> None:
        try:
            submits = [request for request, _ in together]
            message = pb.SubmitGenerationsRequest(submits=submits, brief=True)
            answer = await self._send(message)
            for (request, future), one in zip(together, answer.answers, strict=True):
                if future.done():
                    continue
                if one.WhichOneof("answer") == "error":
                    future.set_exception(of_status(one.error))
                else:
                    future.set_result(standing(request.generation, one))
        except Exception as error:
            for _, future in together:
                if not future.done():
                    future.set_exception(error)
        finally:
            for _, future in together:
                future.cancel()  # where the gateway ends meanwhile; nothing to those answered
            self._under_way = None
            self._send_on()


def standing(
    sent: generation_pb2.Generation, answer: pb.SubmitGenerationsAnswer
) -> generation_pb2.Generation:
    """What stands for a submit that was taken. May change `sent`."""
    if answer.WhichOneof("answer") == "generation":
        return answer.generation
    sent.state = generation_pb2.GENERATION_STATE_QUEUED
    sent.progress.CopyFrom(answer.queued)
    return sent


def away() -> UnavailableError:
    """What a call ends with that the scheduler did not answer."""
    return UnavailableError("the scheduler is away; try again", retry_after_seconds=1.0)


def _give_up(future: asyncio.Future[generation_pb2.Generation]) -> None:
    if not future.done():
        future.set_exception(away())
