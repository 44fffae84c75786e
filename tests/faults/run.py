"""One run: clients at work, one fault after another, each followed by a look whether all is well
again; then everything is healed, and the checker is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc

from atelier.generation import State
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import webhook_pb2, webhook_pb2_grpc
from tests.faults import checker
from tests.faults.clients import Client, GivenUpError
from tests.faults.evidence import drained, gather
from tests.faults.fault import Fault, NotReachedError
from tests.faults.history import OK, UNKNOWN, History
from tests.faults.points import PAIRS
from tests.faults.stack import Stack, running
from tests.support.receiver import Receiver

CLIENTS, CALM_SECONDS, DRAIN_SECONDS = 8, 0.5, 120.0
LEAST_A_SECOND = 0.5  # acknowledged generations: a run with fewer shows nothing
IN_FLIGHT, FEW_STEPS = 200, 2
# Who wakes up after these must be seen to be refused.
ZOMBIES = {"zombie agent": "of lost attempts", "freeze leader": "of deposed leaders"}
# A caller that tries soon again: gRPC's own wait grows to two minutes.
_CHANNEL = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1_000)]


@dataclass(frozen=True)
class Recovery:
    """From the end of a fault (of a kill: from the kill) to the end of a generation that was asked
    for then; seconds."""

    kind: str
    what: str
    seconds: float


@dataclass
class Found:
    """What a run came to."""

    seed: int
    now: str = ""  # the fault that is under way
    recoveries: list[Recovery] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    two_hundred: dict[str, dict[str, float]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    acknowledged: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    attempts: int = 0
    unknown: int = 0
    retried: int = 0
    lost: int = 0
    published_twice: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # writes, by whose they were
    told_of: int = 0  # ends that the receiver of webhooks heard of
    seconds: float = 0.0

    def pairs(self) -> set[str]:
        """Failpoints with an action that were passed by, by the names of their faults."""
        return PAIRS & {f"{one.kind} {one.what}" for one in self.recoveries}

    def by_kind(self) -> dict[str, list[float]]:
        kinds = sorted({one.kind for one in self.recoveries})
        return {k: [one.seconds for one in self.recoveries if one.kind == k] for k in kinds}


async def run(
    folder: Path,
    seed: int,
    faults: Iterable[Fault],
    *,
    seconds: float,
    two_hundred: bool = False,
    disks: bool = False,
) -> Found:
    """Carry out `faults` in order, until they or the `seconds` are over.

    Args:
        two_hundred: before them, kill each part once with 200 generations in flight.
        disks: the parts' files lie on disks of their own, which can be filled.
    """
    found, rng, began = Found(seed), Random(seed), time.monotonic()
    async with (
        AsyncExitStack() as keeping,
        Receiver() as receiver,
        running(folder, disks=disks) as stack,
        grpc.aio.insecure_channel(stack.gateway, options=_CHANNEL) as channel,
    ):
        history = keeping.enter_context(History(folder / "history.jsonl"))
        clients = [
            Client(f"c{n}", channel, history, Random(f"{seed}/{n}")) for n in range(CLIENTS + 1)
        ]
        probe = clients.pop()
        await _hook(channel, receiver)
        await _well(probe)
        if two_hundred:
            for part in stack.parts:
                found.two_hundred[part] = await _with_many(stack, part, channel, history, seed)
        stop = asyncio.Event()
        working = [asyncio.create_task(client.run(stop)) for client in clients]
        try:
            for fault in _until(faults, time.monotonic() + seconds):
                await _one(stack, fault, rng, probe, found)
        except (AssertionError, TimeoutError, GivenUpError, grpc.aio.AioRpcError) as error:
            found.complaints.append(f"not well after {found.now}: {error!r}")
        stop.set()
        for ended in await asyncio.gather(*working, return_exceptions=True):
            if ended is not None:
                found.complaints.append(f"a client saw what none should: {ended!r}")
        await drained(stack, DRAIN_SECONDS)
        evidence = await gather(stack, history.told, receiver.received)
        found.retried = sum(client.retried for client in (*clients, probe))
    found.seconds = time.monotonic() - began
    _judge(found, evidence)
    found.unknown = sum(told.phase == UNKNOWN for told in history.told)
    names = {client.name for client in clients}
    worked = {t.id for t in history.told if t.client in names and t.call == "create" and t.id}
    if len(worked) < LEAST_A_SECOND * min(seconds, found.seconds):
        found.complaints.append(f"too little traffic to show anything: {len(worked)} generations")
    return found


def _until(faults: Iterable[Fault], end: float) -> Iterator[Fault]:
    for fault in faults:
        if time.monotonic() > end:
            return
        yield fault


async def _one(stack: Stack, fault: Fault, rng: Random, probe: Client, found: Found) -> None:
    found.now = fault.name
    print(f"{time.strftime('%H:%M:%S')} {fault.name}", end=" ", flush=True)
    try:
        await fault.hurt(stack, rng)
    except (NotReachedError, TimeoutError) as error:
        found.not_reached.append(f"{fault.name}: {error}")
        print("not reached", flush=True)
        await _well(probe)
        await stack.whole()
        return
    began = time.monotonic()
    await _well(probe)
    found.recoveries.append(Recovery(fault.kind, fault.what, time.monotonic() - began))
    print(f"{found.recoveries[-1].seconds:.1f} s", flush=True)
    await stack.whole()
    await asyncio.sleep(CALM_SECONDS)


async def _well(probe: Client) -> None:
    """A generation is made: health, as a caller sees it."""
    made = await probe.end(await probe.create("common"))
    assert made.state == pb.GENERATION_STATE_SUCCEEDED, made


async def _hook(channel: grpc.aio.Channel, receiver: Receiver) -> None:
    """From here on the receiver is told of each generation's end."""
    webhooks = webhook_pb2_grpc.WebhookServiceStub(channel)
    await webhooks.CreateWebhook(webhook_pb2.CreateWebhookRequest(url=receiver.url), timeout=10)


async def _with_many(
    stack: Stack, part: str, channel: grpc.aio.Channel, history: History, seed: int
) -> dict[str, float]:
    """Kill a part while 200 generations are in flight; all must succeed, and no caller sees more
    than calls that it has to send again."""
    caller = Client(f"two-hundred-{part}", channel, history, Random(seed))
    made = await asyncio.gather(*(caller.create("common", FEW_STEPS) for _ in range(IN_FLIGHT)))
    before, began = stack.pid(part), time.monotonic()
    stack.kill(part)
    ended = await asyncio.gather(*(caller.end(one) for one in made))
    seconds = time.monotonic() - began
    await stack.restarted(part, before)
    succeeded = sum(one.state == pb.GENERATION_STATE_SUCCEEDED for one in ended)
    print(f"{part} killed with {len(made)} in flight: {succeeded} in {seconds:.1f} s", flush=True)
    return {"succeeded": succeeded, "seconds": round(seconds, 1), "sent_again": caller.retried}


def _judge(found: Found, evidence: checker.Evidence) -> None:
    found.complaints += checker.complaints(evidence)
    found.complaints += [
        f"P1: {part} killed with {IN_FLIGHT} in flight: {told['succeeded']:.0f} succeeded"
        for part, told in found.two_hundred.items()
        if told["succeeded"] != IN_FLIGHT
    ]
    found.acknowledged = len(checker.acknowledged(evidence))
    found.lost = checker.lost(evidence)
    found.published_twice = checker.published_twice(evidence)
    found.refused = dict(evidence.refused)
    found.told_of = len(set(evidence.heard))
    hurt = {f"{one.kind} {one.what}" for one in found.recoveries}
    found.complaints += [
        f"P4: {fault}, and no write {whose} was seen refused: that shows nothing"
        for fault, whose in ZOMBIES.items()
        if fault in hurt and not found.refused.get(whose)
    ]
    found.attempts = sum(event.event == "claim" for event in evidence.events)
    states = [row.state for row in evidence.rows]
    found.finished = {state: states.count(state) for state in sorted(set(states))}
    if not found.finished.get(State.SUCCEEDED):
        found.complaints.append("nothing succeeded")
    refused = [t for t in evidence.told if t.phase == "fail" and t.code != "RESOURCE_EXHAUSTED"]
    found.complaints += [f"{t.call} {t.key} was answered {t.code}" for t in refused]
    if not any(told.phase == OK for told in evidence.told):
        found.complaints.append("no call was answered")
