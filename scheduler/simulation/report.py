"""The figures of a run, and the checker that gets them again from what was written down. Pure.

What arrived during the warm-up is not counted. Latencies of unfinished requests count as if they
had ended at the limit (the horizon and 900 seconds); those of rejected ones do not count, but they
met no objective. A group (the pictures of one request) is done when its last is, and counts by its
class. A request is cold if its model was on no device when it came; for the figures named so, its
objective is longer by the load. Fairness is Jain's index over tenants of what they got within their
objectives, over what max-min fairness entitles them to.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scheduler.runqueue import WEIGHTS, Ticket
from scheduler.simulation.world import DRAIN_SECONDS, Outcome, Run, Scenario

CSV_COLUMNS = ("id", "start", "finish", "gpu", "rejected", "preemptions", "moves")
SAME_REQUEST = 1e-3  # seconds between pictures of one request, where no group is told
LATENCY = 1e-6  # seconds of rounding that are forgiven


def figures(run: Run, policy: str, seed: int, wall_seconds: float = 0.0) -> dict[str, Any]:
    """All of them, ready for JSON. `wall_seconds`: what the run took, for events a second."""
    scenario = run.scenario
    span = len(scenario.gpus) * scenario.horizon
    decisions = sorted(run.decision_seconds)
    counted = sum(1 for o in run.outcomes.values() if o.ticket.submitted >= scenario.warmup)
    per_1000 = 1000 / max(1, counted)
    return {
        "scenario": scenario.name,
        "policy": policy,
        "seed": seed,
        "util": round(run.busy / span, 4),
        **_of_outcomes(scenario, run.outcomes),
        **_of_cold(scenario, run.outcomes),
        "loads_per_1000": round(run.loads * per_1000, 2),
        "host_loads_per_1000": round(run.host_loads * per_1000, 2),
        "switches_per_1000": round(run.switches * per_1000, 2),
        "loading_share": round(run.loading / span, 4),
        "stalled_share": round(run.stalled / span, 4),
        "decision_us": {
            "p50": round(1e6 * quantile(decisions, 0.5), 2),
            "p99": round(1e6 * quantile(decisions, 0.99), 2),
        },
        "decisions_per_second": round(len(decisions) / sum(decisions)) if decisions else 0,
        "events_per_second": round(run.events / wall_seconds) if wall_seconds else 0,
    }


def rows(run: Run) -> list[dict[str, str]]:
    """One for each request, of CSV_COLUMNS; a time that never came is empty."""
    return [
        {
            "id": str(int(outcome.ticket.id)),
            "start": _time(outcome.start),
            "finish": _time(outcome.finish),
            "gpu": outcome.gpu,
            "rejected": str(int(outcome.rejected)),
            "preemptions": str(outcome.preemptions),
            "moves": str(outcome.moves),
        }
        for outcome in run.outcomes.values()
    ]


def recompute(scenario: Scenario, table: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """Those figures that follow from the requests alone, from `rows`.

    Raises ValueError for a table that cannot be of this scenario.
    """
    tickets = {str(int(t.id)): t for t in scenario.requests}
    found: dict[str, Outcome] = {}
    for row in table:
        name = row["id"]
        if name not in tickets or name in found:
            raise ValueError(f"request {name} is unknown, or there twice")
        found[name] = Outcome(
            tickets[name],
            start=float(row["start"] or -1),
            finish=float(row["finish"] or -1),
            gpu=row["gpu"],
            rejected=row["rejected"] == "1",
            preemptions=int(row["preemptions"]),
            moves=int(row["moves"]),
        )
    if lost := set(tickets) - set(found):
        raise ValueError(f"{len(lost)} requests are lost, {min(lost)} among them")
    return _of_outcomes(scenario, found)


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _of_outcomes(scenario: Scenario, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    counted = [o for o in outcomes.values() if o.ticket.submitted >= scenario.warmup]
    good = [_in_time(o) for o in counted]
    weights = [WEIGHTS[o.ticket.level] for o in counted]
    classes = {
        str(level): _of_class(scenario, [o for o in counted if o.ticket.level == level])
        for level in (2, 1, 0)
    }
    return {
        "slo_goodput": _share(sum(good), len(counted)),
        "slo_goodput_weighted": _share(
            sum(w for w, ok in zip(weights, good, strict=True) if ok), sum(weights)
        ),
        "classes": {level: found for level, found in classes.items() if found["n"]},
        "jain": round(_jain(scenario, counted), 4),
        **_of_groups(scenario, counted),
        "unfinished": sum(1 for o in counted if o.finish < 0 and not o.rejected),
        "preemptions_per_1000": round(
            1000 * sum(o.preemptions for o in counted) / max(1, len(counted)), 2
        ),
        "moves_per_1000": round(1000 * sum(o.moves for o in counted) / max(1, len(counted)), 2),
    }


def _of_cold(scenario: Scenario, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    counted = [o for o in outcomes.values() if o.ticket.submitted >= scenario.warmup]
    met = weight = 0.0
    for outcome in counted:
        worth = WEIGHTS[outcome.ticket.level]
        grace = scenario.models[outcome.ticket.model].load if outcome.cold else 0.0
        weight += worth
        met += worth * _in_time(outcome, grace)
    return {
        "slo_goodput_weighted_cold": _share(met, weight),
        "cold_share": _share(sum(o.cold for o in counted), len(counted)) if counted else 0.0,
    }


def _of_groups(scenario: Scenario, counted: list[Outcome]) -> dict[str, Any]:
    """Requests of several pictures as their users see them."""
    limit = scenario.horizon + DRAIN_SECONDS
    groups: dict[object, list[Outcome]] = defaultdict(list)
    before: Ticket | None = None
    name: object = 0
    for outcome in counted:
        ticket = outcome.ticket
        name = ticket.group or (name if before and _together(before, ticket) else ticket.id)
        groups[name].append(outcome)
        before = ticket
    latencies = sorted(
        max(o.finish if o.finish >= 0 else limit for o in group) - group[0].ticket.submitted
        for group in groups.values()
        if not any(o.rejected for o in group)
    )
    weights = [(WEIGHTS[group[0].ticket.level], group) for group in groups.values()]
    met = sum(weight for weight, group in weights if all(map(_in_time, group)))
    return {
        "group_slo_weighted": _share(met, sum(weight for weight, _ in weights)),
        "group_p50": round(quantile(latencies, 0.5), 3),
        "group_p99": round(quantile(latencies, 0.99), 3),
    }


def _together(one: Ticket, next_: Ticket) -> bool:
    """Whether they are pictures of one request, where no group is told."""
    return (
        not next_.group
        and (one.tenant, one.model, one.steps, one.level)
        == (next_.tenant, next_.model, next_.steps, next_.level)
        and next_.submitted - one.submitted < SAME_REQUEST
    )


def _of_class(scenario: Scenario, outcomes: list[Outcome]) -> dict[str, Any]:
    limit = scenario.horizon + DRAIN_SECONDS
    latencies = sorted(
        (o.finish if o.finish >= 0 else limit) - o.ticket.submitted
        for o in outcomes
        if not o.rejected
    )
    return {
        "n": len(outcomes),
        "slo": _share(sum(map(_in_time, outcomes)), len(outcomes)),
        "p50": round(quantile(latencies, 0.5), 3),
        "p99": round(quantile(latencies, 0.99), 3),
        "p999": round(quantile(latencies, 0.999), 3),
        "rejected": sum(o.rejected for o in outcomes),
    }


def _in_time(outcome: Outcome, grace: float = 0.0) -> bool:
    ticket = outcome.ticket
    return 0 <= outcome.finish <= ticket.submitted + ticket.slo + grace + LATENCY


def _jain(scenario: Scenario, outcomes: list[Outcome]) -> float:
    """1 is fair; 1/n is all for one of n."""
    asked: dict[str, float] = defaultdict(float)
    got: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        seconds = _work(scenario, outcome.ticket)
        asked[outcome.ticket.tenant] += seconds
        if _in_time(outcome):
            got[outcome.ticket.tenant] += seconds
    speed = sum(gpu.speed for gpu in scenario.gpus)
    due = _max_min(asked, speed * (scenario.horizon - scenario.warmup))
    shares = [min(1.0, got[tenant] / due[tenant]) for tenant in asked if due[tenant] > 0]
    squares = sum(x * x for x in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def _max_min(asked: Mapping[str, float], capacity: float) -> dict[str, float]:
    """What each is entitled to: nobody more than asked, and the rest shared evenly."""
    due: dict[str, float] = {}
    for left, (tenant, wanted) in zip(
        range(len(asked), 0, -1), sorted(asked.items(), key=lambda item: item[1]), strict=True
    ):
        due[tenant] = min(wanted, capacity / left)
        capacity -= due[tenant]
    return due


def _work(scenario: Scenario, ticket: Ticket) -> float:
    model = scenario.models[ticket.model]
    return model.gang * model.shapes[ticket.shape].work(ticket.steps, ticket.rows)


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 1.0


def _time(seconds: float) -> str:
    return "" if seconds < 0 or not math.isfinite(seconds) else repr(seconds)
