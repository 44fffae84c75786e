"""What must hold after a schedule, when all is well again and nothing is left to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from atelier.generation import FINAL, TRANSITIONS, State
from scheduler.outcomes import MAX_KILLED
from scheduler.trace import check_integrity, state_line
from tests.simulated.clients import History
from tests.simulated.device import POISON, SimTriton
from tests.simulated.parts import CARDS, Keeper
from tests.simulated.tables import Written
from tests.simulated.world import World

MOST_ATTEMPTS = 40
_MOVES = {(t.source, t.target) for t in TRANSITIONS}


def broken(world: World, history: History) -> Iterator[str]:
    """Promises to callers that were not kept, P1 to P6 and P10."""
    tables = world.tables
    yield from world.broken
    yield from history.wrong
    for key, ids in history.acknowledged.items():
        if len(ids) > 1:
            yield f"P2: {key} was acknowledged as {sorted(ids)}"
        for missing in ids - tables.generations.keys():
            yield f"P1: {missing} was acknowledged and is not there"
    for row in tables.generations.values():
        if State(row["state"]) not in FINAL:
            yield f"P1: {row['id']} is {row['state']} after all was well again"
    keys = defaultdict(list)
    for row in tables.generations.values():
        if row["request_id"]:
            keys[row["tenant"], row["request_id"]].append(row["id"])
    yield from (f"P2: {key} has {ids}" for key, ids in keys.items() if len(ids) > 1)

    of: dict[str, list[Written]] = defaultdict(list)
    for event in tables.events:
        of[event.generation_id].append(event)
    for generation_id, events in of.items():
        yield from _life(world, generation_id, events)
    for generation_id, watchers in history.seen.items():
        final = _state(world, generation_id)
        for seen in watchers:
            finals = [state for state, _ in seen if state in FINAL]
            if finals != [final] or not seen or seen[-1][0] is not final:
                yield f"P5: {generation_id} ended as {final}, a watcher saw {seen}"
            order = [_place(*sight) for sight in seen]
            if order != sorted(order):
                yield f"P5: {generation_id}: a watcher saw it go back: {seen}"
    for generation_id, at, told in history.cancels:
        state = _state(world, generation_id)
        if told in FINAL and state is not told:
            yield f"P6: {generation_id} was told to be {told}, and is {state}"
        for event in of[generation_id]:
            if event.event in ("claim", "requeue") and event.at > at:
                yield f"P6: {generation_id}: {event.event} at {event.at:.2f}, cancelled {at:.2f}"


def _place(state: State, attempt: int) -> tuple[int, int]:
    """Where in its life: an attempt runs, then it waits again or has ended."""
    return attempt, 0 if state is State.RUNNING else 2 if state in FINAL else 1


def _state(world: World, generation_id: str) -> State | None:
    """As it stands; None where it is not there."""
    row = world.tables.generations.get(generation_id)
    return State(row["state"]) if row else None


def _life(world: World, generation_id: str, events: list[Written]) -> Iterator[str]:
    """One generation's events, in the order of their commits."""
    row = world.tables.generations[generation_id]
    state, token = None, 0
    for event in events:
        if state and event.state is not state and (state, event.state) not in _MOVES:
            yield f"P5: {generation_id} went from {state} to {event.state}"
        if event.event == "claim":
            if event.token is None or event.token <= token:
                yield f"P3: {generation_id}: token {event.token} after {token}"
            token = event.token or token
        elif event.token not in (None, token):
            yield f"P3: {generation_id}: {event.event} under {event.token}, not {token}"
        state = event.state
    published = [e for e in events if e.event == "publish"]
    if (row["state"] == "SUCCEEDED") != (len(published) == 1):
        yield f"P3: {generation_id} is {row['state']}, published {len(published)} times"
    for result in row["results"] or ():
        key = result["object_key"]
        if f"/{published[0].token}/" not in key or key not in world.objects:
            yield f"P3: {generation_id}: {key} is not what attempt {published[0].token} stored"
    overdue = row["deadline"] and row["finish_time"] and row["deadline"] < row["finish_time"]
    if row["state"] == "EXPIRED" and not overdue:
        yield f"P5: {generation_id} expired at {row['finish_time']}, due {row['deadline']}"
    if row["attempt"] > MOST_ATTEMPTS:
        yield f"P10: {generation_id} was tried {row['attempt']} times"
    killed = [e for e in events if e.detail.get("reason") == "DEVICE_KILLED"]
    if len(killed) >= MAX_KILLED:
        yield f"P10: {generation_id} ended {len(killed)} Tritons, and was tried again"
    reason = (row["failure"] or {}).get("reason")
    poison = row["spec"]["prompt"] == POISON
    if reason == "POISONED" and not poison:
        yield f"P10: {generation_id} is no poison"
    if poison and row["state"] == "SUCCEEDED":
        yield f"the simulation: {generation_id} is poison, and was made"


def left_over(world: World, schedulers: list[Keeper], agents: list[Keeper]) -> Iterator[str]:
    """What nobody gave back, where there is nothing to do any more."""
    leaders = [k.process for k in schedulers if k.process.parts.get("dispatch")]
    leaders = [p for p in leaders if p in world.servers]
    if len(leaders) != 1:
        yield f"P7: {[p.name for p in leaders]} serve"
        return
    parts = leaders[0].parts
    live, fleet, sched = parts["live"], parts["fleet"], parts["live"].sched
    kept = {
        "running": live.running, "claiming": live.claiming, "cancelling": live.cancelling,
        "preempting": live.preempting, "lost": live.lost, "delayed": live._delayed,
        "views": live.watchers._views, "watchers": live.watchers._changed,
        "waiting": live.watchers.waiting, "unfinished": live.watchers.unfinished,
        "device time": live._device_time._used, "on devices": live._device_time._rows,
        "doubts": fleet.doubts, "away": fleet.lost_since, "bound": sched.books.bound,
    }  # fmt: skip
    yield from (f"left over: {name}: {what}" for name, what in kept.items() if what)
    if len(sched.queues) or len(parts["background"]):
        yield f"left over: {len(sched.queues)} queued, {len(parts['background'])} tasks"
    for device in sched.devices.values():
        free = device.capacity - device.weights(sched.models)
        if device.running or abs(device.free(sched.models) - free) > 1e-6:
            yield f"left over: memory of {device.id}: {state_line(sched)}"
        if device.quarantined:
            yield f"left over: {device.id} is quarantined: {device.quarantined}"
    tables = leaders[0].world.tables
    pinned = {(device, model) for device, models in sched.pinned.items() for model in models}
    if sched.drained != tables.drained or pinned != tables.pinned:
        yield f"left over: orders {sched.drained} {pinned}, not {tables.drained} {tables.pinned}"
    if tables.drained or tables.pinned:
        yield f"left over: orders that were taken back: {tables.drained} {tables.pinned}"
    try:
        check_integrity(sched)
    except AssertionError as error:
        yield f"left over: the core is broken: {error}"
    lines = parts["lines"]._of_node
    if set(lines) != {keeper.name for keeper in agents}:
        yield f"left over: lines {sorted(lines)}"
    for keeper in agents:
        commands = keeper.process.parts["commands"]
        if held := {**commands._running, **commands._unsettled, **commands._released}:
            yield f"left over: {keeper.name} has {held}"


def on_devices(tritons: list[SimTriton]) -> Iterator[str]:
    """Work that nobody waits for, and more weights than there is memory."""
    for triton in tritons:
        if triton.runs:
            yield f"left over: {triton.id} runs {[run.work.attempt for run in triton.runs]}"
        held = sum(CARDS[model].resident_bytes for model in triton.resident)
        if held > triton.capacity:
            yield f"{triton.id} holds {held} of {triton.capacity} bytes"
