"""Where the seconds of devices went: useful, lost between steps, lost around loads, idle. Pure.

The same accounts are made of what a simulation did and of what sleeping models wrote down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from scheduler.simulation.world import Span

COMPUTES = ("steps", "decode")


@dataclass(frozen=True)
class Done:
    """Something that a device did. Seconds from the trace's beginning."""

    kind: str  # steps, decode, load
    device: str
    began: float
    ended: float
    nominal: float  # seconds that the profile gives it; the rest is the machine's
    requests: tuple[int, ...] = ()  # their numbers in the trace
    row_steps: int = 0


def of_simulation(timeline: Iterable[Span]) -> list[Done]:
    """A simulation's timeline, where everything takes what the profile says."""
    return [
        Done(s.kind, s.gpu, s.began, s.ended, s.ended - s.began, tuple(map(int, s.requests)),
             s.steps * len(s.requests))
        for s in timeline
        if s.kind in (*COMPUTES, "load")
    ]  # fmt: skip


def account(
    done: Iterable[Done], devices: Iterable[str], submitted: Mapping[int, float], horizon: float
) -> dict[str, float]:
    """Device seconds until the horizon by where they went; they add up to devices * horizon.

    useful: steps and decodes, as long as the profile says. slow: what they took beyond it. between:
    from one step to the next, or to the decode, of the same batch. turnaround: the device had
    nothing, though what it ran next had come. loading: so too, and a load was under way; around:
    before and after that load. idle: what it ran next had not come yet.

    Also `row_steps`: steps of pictures that were done by then, whatever batches they shared; and
    `gaps`: how many there were `between` steps.
    """
    found = dict.fromkeys(
        (
            "useful",
            "slow",
            "between",
            "turnaround",
            "loading",
            "around",
            "idle",
            "row_steps",
            "gaps",
        ),
        0.0,
    )
    by_device: dict[str, list[Done]] = defaultdict(list)
    for one in done:
        by_device[one.device].append(one)
    for device in devices:
        mine = sorted(by_device[device], key=lambda d: d.began)
        loads = [d for d in mine if d.kind == "load"]
        before: Done | None = None
        for one in (d for d in mine if d.kind in COMPUTES):
            late = one.began >= horizon
            now = replace(one, began=horizon, ended=horizon) if late else one
            _gap(found, before, now, loads, submitted)
            took = now.ended - now.began
            share = min(1.0, (horizon - now.began) / took) if took > 0 else 0.0
            found["useful"] += share * min(now.nominal, took)
            found["slow"] += share * max(0.0, took - now.nominal)
            found["row_steps"] += share * now.row_steps
            before = now
            if late:
                break
        found["idle"] += max(0.0, horizon - (before.ended if before else 0.0))
    return found


def _gap(
    found: dict[str, float],
    before: Done | None,
    now: Done,
    loads: list[Done],
    submitted: Mapping[int, float],
) -> None:
    """Say why the device did nothing between two things that it did."""
    start = before.ended if before else 0.0
    if now.began <= start:
        return
    if before and set(before.requests) & set(now.requests):
        found["between"] += now.began - start
        found["gaps"] += 1
        return
    came = min(max(start, min(submitted[n] for n in now.requests)), now.began)
    found["idle"] += came - start
    waited = now.began - came
    loading = sum(max(0.0, min(d.ended, now.began) - max(d.began, came)) for d in loads)
    found["loading"] += loading
    found["around" if loading else "turnaround"] += waited - loading
