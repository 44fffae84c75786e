"""`atelier watch`: decisions as they are made, and devices as their state changes, a line each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import grpc
from rich.console import Console

from atelier.cli import fleet_words as words
from atelier.cli import problems
from atelier.cli.fleet import print_json, say
from atelier.cli.where import Gateway, channel_to
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc

AGAIN_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)  # before each further call, where the gateway is away


async def watch(where: Gateway, past: int, console: Console, *, as_json: bool) -> None:
    """Follow the fleet until somebody ends it; a gateway that goes away is waited for.

    Raises:
        ProblemError: it is refused, or nobody answers for long.
    """
    telling, pauses = Telling(), iter(AGAIN_SECONDS)
    while True:
        try:
            async with channel_to(where) as channel:
                service = fleet_pb2_grpc.FleetServiceStub(channel)
                request = pb.WatchFleetRequest(past_decisions=past)
                async for answer in service.WatchFleet(request):
                    past, pauses = 0, iter(AGAIN_SECONDS)
                    if as_json:
                        print_json(answer)
                        continue
                    for line, style in telling.lines(answer):
                        say(console, line, style)
            pause = next(pauses, None)
        except grpc.aio.AioRpcError as error:
            pause = next(pauses, None) if problems.may_pass(error) else None
            if pause is None:
                raise problems.of_call(error, where.address) from error
        if pause is None:
            raise problems.ProblemError([f"{where} ends the watch again and again"])
        if not as_json:
            say(console, f"the gateway is away; asking again in {pause:g} s", "red")
        await asyncio.sleep(pause)


class Telling:
    """What the news are in lines; of devices, only what changes in their state."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._epoch = self._sequence = 0

    def lines(self, answer: pb.WatchFleetResponse) -> Iterator[tuple[str, str | None]]:
        """Each with its style."""
        match answer.WhichOneof("news"):
            case "snapshot":
                yield from self._snapshot(answer.snapshot)
            case "decisions":
                for decision in answer.decisions.decisions:
                    self._sequence = max(self._sequence, decision.sequence)
                    yield words.decision_line(decision), None
            case "gap":
                missed = answer.gap.missed_decisions
                self._sequence += missed
                yield _now("gap", f"{missed} decisions were made too fast to be told"), "red"
            case "change":
                yield from self._devices(answer.change.devices)
                for device_id in answer.change.gone_device_ids:
                    self._states.pop(device_id, None)
                    yield _now("device", f"{device_id} has left the fleet"), "red"

    def _snapshot(self, snapshot: pb.FleetSnapshot) -> Iterator[tuple[str, str | None]]:
        """The first, or one after a pause: then what happened meanwhile is told as far as known."""
        if self._epoch and snapshot.epoch != self._epoch:
            yield _now("notice", "the scheduler was restarted"), "red"
        elif self._epoch and snapshot.last_sequence > self._sequence:
            missed = snapshot.last_sequence - self._sequence
            yield _now("gap", f"{missed} decisions were made meanwhile"), "red"
        self._epoch, self._sequence = snapshot.epoch, snapshot.last_sequence
        for device_id in self._states.keys() - {device.id for device in snapshot.devices}:
            del self._states[device_id]
            yield _now("device", f"{device_id} has left the fleet"), "red"
        yield from self._devices(snapshot.devices)

    def _devices(self, devices: Iterable[pb.Device]) -> Iterator[tuple[str, str | None]]:
        for device in devices:
            now, before = words.state(device), self._states.get(device.id)
            if now != before:
                self._states[device.id] = now
                yield _now("device", f"{device.id} is {now}"), words.STYLES.get(device.state, "red")


def _now(kind: str, what: str) -> str:
    return words.line(datetime.now(UTC), kind, what)
