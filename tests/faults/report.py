"""The report of a long run: faults.json, faults.md and faults.svg."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.claims import claim
from tests.faults.points import PAIRS
from tests.faults.run import IN_FLIGHT, Found

LEAST_FAULTS, PLOTTED_SECONDS = 50, 30.0


def write(found: Found, folder: Path) -> None:
    """Into an existing folder."""
    report = _report(found)
    (folder / "faults.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "faults.md").write_text(_page(report))
    groups = {
        kind: {name: min(1.0, told[f"{name}_seconds"] / PLOTTED_SECONDS) for name in _TOLD}
        for kind, told in report["recovery"].items()
    }
    title = f"From the end of a fault to a picture made, of {PLOTTED_SECONDS:.0f} s"
    plot.bars(folder / "faults.svg", title, groups)


_TOLD = ("median", "max")


def _report(found: Found) -> dict[str, Any]:
    recovery = {
        kind: {
            "faults": len(seconds),
            "median_seconds": round(statistics.median(seconds), 2),
            "max_seconds": round(max(seconds), 2),
        }
        for kind, seconds in found.by_kind().items()
    }
    faults, broken = len(found.recoveries), len(found.complaints)
    return {
        "seed": found.seed,
        "minutes": round(found.seconds / 60, 1),
        "claims": [
            claim("faults injected", faults, "", LEAST_FAULTS, faults >= LEAST_FAULTS),
            claim("acknowledged generations lost", found.lost, "", 0, found.lost == 0),
            claim(
                "generations published twice", found.published_twice, "", 0,
                found.published_twice == 0,
            ),
            claim("promises found broken", broken, "", 0, broken == 0),
            *_of_many(found),
        ],
        "writes_seen_refused": found.refused,
        "failpoint_pairs": {"driven": len(found.pairs()), "of": len(PAIRS)},
        "ends_told_by_webhook": found.told_of,
        "acknowledged": found.acknowledged,
        "finished": found.finished,
        "attempts": found.attempts,
        "calls_of_unknown_end": found.unknown,
        "calls_sent_again": found.retried,
        "recovery": recovery,
        "recovery_of_each": sorted(
            ([f"{r.kind} {r.what}", round(r.seconds, 2)] for r in found.recoveries), key=str
        ),
        "failpoints_not_reached": found.not_reached,
        "two_hundred_in_flight": found.two_hundred,
        "complaints": found.complaints,
    }  # fmt: skip


def _of_many(found: Found) -> list[dict[str, Any]]:
    """Nothing where that was left out."""
    parts = len(found.two_hundred)
    survived = sum(told["succeeded"] == IN_FLIGHT for told in found.two_hundred.values())
    name = f"parts killed with {IN_FLIGHT} in flight, all of which succeeded"
    return [claim(name, survived, "", parts, survived == parts)] if parts else []


def _page(report: dict[str, Any]) -> str:
    refused, pairs = report["writes_seen_refused"], report["failpoint_pairs"]
    lines = [
        "# Faults",
        "",
        f"`make test-faults-long`, seed {report['seed']}, {report['minutes']} minutes: eight",
        "callers at the front door of two sleeping devices and two schedulers, one fault after",
        "another. The seconds are from the end of a fault (of what was killed: from its death) to",
        "the end of a generation asked for then.",
        "",
        "| kind | faults | median s | max s |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {told['faults']} | {told['median_seconds']} | {told['max_seconds']} |"
        for kind, told in report["recovery"].items()
    ]
    lines += ["", "| claim | | goal | holds |", "|---|---|---|---|"]
    lines += [
        f"| {c['name']} | {c['value']} | {c['goal']} | {'yes' if c['holds'] else 'NO'} |"
        for c in report["claims"]
    ]
    lines += [
        "",
        f"{report['acknowledged']} generations acknowledged, {report['attempts']} attempts;"
        f" {report['calls_sent_again']} calls were sent again.",
        f"Writes of who had lost his attempt, or led before, seen to be refused:"
        f" {refused.get('of lost attempts', 0)} and {refused.get('of deposed leaders', 0)}.",
        f"A receiver of webhooks was told of {report['ends_told_by_webhook']} ends.",
        f"Failpoints with each action: {pairs['driven']} of {pairs['of']};"
        f" faults that were not reached in time: {len(report['failpoints_not_reached'])}.",
    ]
    if not report["two_hundred_in_flight"]:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        f"| part killed with {IN_FLIGHT} in flight | succeeded | seconds until all had"
        " | calls sent again |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {part} | {told['succeeded']:.0f} | {told['seconds']} | {told['sent_again']:.0f} |"
        for part, told in report["two_hundred_in_flight"].items()
    ]
    return "\n".join(lines) + "\n"
