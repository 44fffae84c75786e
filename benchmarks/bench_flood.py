"""`make bench-flood`: what one tenant notices of another's flood.

A gateway, a scheduler and PostgreSQL as in production. One tenant submits at its ease; in turns
alone, and while another sends twenty times what its plan has. What is more than the plan is refused
at the scheduler, or, since it goes on, unread at the gateway (gateway/overrun.py), and costs that
its share of a call all the same: callers and house have the same cores, so the flood's own
processor time is in the figure.

Writes flood.json, flood.md and flood.svg.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console

from atelier.v1 import access_pb2, access_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from benchmarks import plot
from benchmarks.claims import at, claim, table
from benchmarks.door_caller import Came, Job
from benchmarks.door_stack import Door, Stolen, call, running

CALM_RATE = 100.0  # calls a second
PLAN_RATE, FLOOD_RATE = 25.0, 500.0
AHEAD_SECONDS = 1.0  # for which the flood is there before
MOST_TIMES = 1.5

console = Console(width=120)


@dataclass
class Measured:
    """The calm tenant's calls, over all rounds. Seconds."""

    waited: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)  # of each round
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, came: Came) -> None:
        self.waited += came.waited
        if came.waited:
            self.p99.append(at(came.waited, 0.99))
        self.errors.update(came.errors)

    def at(self, share: float) -> float:
        return at(self.waited, share)


def main(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("benchmarks/results"),
    rounds: Annotated[int, typer.Option()] = 12,
    seconds: Annotated[float, typer.Option(help="Of each side in each round.")] = 5.0,
) -> None:
    """Measure, and say what holds."""
    with tempfile.TemporaryDirectory(prefix="bench-flood-") as folder:
        report = asyncio.run(_run(Path(folder), rounds, seconds))
    out.mkdir(parents=True, exist_ok=True)
    (out / "flood.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "flood.md").write_text(_page(report))
    plot.bars(
        out / "flood.svg",
        "A tenant's submits, in milliseconds",
        {
            side: {name: 1e3 * report[side][name] for name in ("p50", "p99")}
            for side in ("alone", "beside")
        },
    )
    console.print((out / "flood.md").read_text())


async def _run(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    alone, beside, flood = Measured(), Measured(), Measured()
    loads, flooded, stolen = [], 0.0, Stolen()
    async with running(folder / "state") as door:
        calm_key, flood_key = await _tenants(door)
        calm = Job("submit", door.gateway, seconds, rate=CALM_RATE, key=calm_key)
        wave = Job(
            "submit", door.gateway, seconds + 2 * AHEAD_SECONDS, rate=FLOOD_RATE, key=flood_key
        )
        await call(calm)  # the first of everything
        for _ in range(rounds):
            loads.append(os.getloadavg()[0])
            alone.add(await call(calm))
            rising = asyncio.create_task(call(wave))
            await asyncio.sleep(AHEAD_SECONDS)
            beside.add(await call(calm))
            flood.add(await rising)
            flooded += wave.seconds
    return _report(alone, beside, flood, flooded, loads, stolen.share())


async def _tenants(door: Door) -> tuple[str, str]:
    """Keys of two tenants, of which the second has a plan."""
    shown = [("authorization", f"Bearer {door.key}")]
    async with grpc.aio.insecure_channel(door.gateway) as channel:
        plan = tenant_pb2.Plan(requests_per_second=PLAN_RATE)
        await tenant_pb2_grpc.TenantServiceStub(channel).SetTenant(
            tenant_pb2.SetTenantRequest(name="flood", plan=plan), metadata=shown
        )
        keys = [
            await access_pb2_grpc.AccessServiceStub(channel).CreateKey(
                access_pb2.CreateKeyRequest(tenant=tenant, scopes=["generate"]), metadata=shown
            )
            for tenant in ("calm", "flood")
        ]
    return keys[0].text, keys[1].text


def _report(
    alone: Measured,
    beside: Measured,
    flood: Measured,
    flooded: float,
    loads: list[float],
    stolen: float,
) -> dict[str, Any]:
    # Of what was beside each other: others come and go on the machine.
    rounds = [b / a for a, b in zip(alone.p99, beside.p99, strict=True)]
    times = statistics.median(rounds)
    failed = sum(alone.errors.values()) + sum(beside.errors.values())
    refused = flood.errors["RESOURCE_EXHAUSTED"]
    admitted = len(flood.waited) / flooded
    other = sum(flood.errors.values()) - refused
    most = PLAN_RATE * (1 + 2 / (flooded / len(loads)))  # with a full bucket at each beginning
    least = 0.9 * PLAN_RATE
    return {
        "rounds": len(loads),
        "cores": os.cpu_count(),
        "load": {"least": min(loads), "most": max(loads)},
        "stolen": stolen,
        "p99_beside_of_alone": rounds,
        "alone": {"calls": len(alone.waited), "p50": alone.at(0.5), "p99": alone.at(0.99)},
        "beside": {"calls": len(beside.waited), "p50": beside.at(0.5), "p99": beside.at(0.99)},
        "flood": {"a_second": FLOOD_RATE, "admitted_a_second": admitted, "refused": refused},
        "claims": [
            claim(
                "p99 beside a flood, of that alone (median of rounds)",
                times,
                "",
                MOST_TIMES,
                times <= MOST_TIMES,
            ),
            claim("calls of the calm tenant that failed", failed, "", 0, failed == 0),
            claim("the flood's calls taken", admitted, "a second", most, admitted <= most),
            claim("and no fewer than", admitted, "a second", least, admitted >= least),
            claim("its calls that ended otherwise than refused", other, "", 0, other == 0),
        ],
    }


def _page(report: dict[str, Any]) -> str:
    load, flood = report["load"], report["flood"]
    return "\n".join(
        [
            "# A flood next door",
            "",
            f"One tenant makes {CALM_RATE:g} submits a second; another {FLOOD_RATE:g}, of which its"
            f" plan has {PLAN_RATE:g}: {report['rounds']} rounds in turns, on"
            f" {report['cores']} cores that callers and house share. Load of the machine:"
            f" {load['least']:.1f} to {load['most']:.1f}; {report['stolen']:.0%} of the processors"
            " went to others on its host. Of the flood"
            f" {flood['admitted_a_second']:.0f} a second were taken, {flood['refused']:,} refused.",
            "",
            "| the calm tenant's submits | calls | p50 ms | p99 ms |",
            "|---|---|---|---|",
            *(
                f"| {side} | {report[side]['calls']:,} | {1e3 * report[side]['p50']:.1f} |"
                f" {1e3 * report[side]['p99']:.1f} |"
                for side in ("alone", "beside")
            ),
            "",
            *table(report["claims"]),
            "",
            "![alone and beside](flood.svg)",
            "",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
