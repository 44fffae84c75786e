"""`atelier timeline -o FILE`: what the devices did, as a page, a picture or a trace."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from rich.console import Console

from atelier.cli.fleet import CALL_SECONDS, fleet_at, say
from atelier.cli.life import stamp
from atelier.cli.problems import BAD_INPUT, ProblemError
from atelier.cli.timeline_chart import chart
from atelier.cli.timeline_lanes import Timeline
from atelier.cli.timeline_lanes import timeline as timeline_of
from atelier.cli.timeline_page import page
from atelier.cli.timeline_perfetto import trace_events
from atelier.cli.timeline_png import write_png
from atelier.cli.where import Gateway
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc

SUFFIXES = (".html", ".png", ".json")
AT_ONCE = 5_000  # moments in a message


async def timeline(where: Gateway, out: Path, last_seconds: float | None, console: Console) -> None:
    """Ask for all moments, and write them as the file's name says.

    Raises:
        ProblemError: there is nothing to tell, or the file cannot be written.
    """
    if out.suffix not in SUFFIXES:
        line = f"--out {out}: call it .html (a page), .png (a picture) or .json (for Perfetto)"
        raise ProblemError([line], BAD_INPUT)
    async with fleet_at(where) as fleet:
        told = await _read(fleet, last_seconds)
    if not any(lane.blocks or lane.loads or lane.faults for lane in told.lanes):
        raise ProblemError(["the scheduler remembers nothing of that time: nothing ran"])
    try:
        await asyncio.to_thread(_write, told, out)
    except OSError as error:
        raise ProblemError([f"{out} cannot be written: {error.strerror}"]) from error
    ran = sum(len(lane.blocks) for lane in told.lanes)
    seconds = told.end - told.start
    say(console, f"{out}: {ran} attempts on {len(told.lanes)} devices, {seconds:.1f} s")


def _write(told: Timeline, out: Path) -> None:
    if out.suffix == ".png":
        write_png(chart(told), out)
    elif out.suffix == ".html":
        out.write_text(page(chart(told)), "utf-8")
    else:
        out.write_text(json.dumps(trace_events(told)), "utf-8")


async def _read(fleet: fleet_pb2_grpc.FleetServiceStub, last_seconds: float | None) -> Timeline:
    """All that is remembered. A scheduler that is replaced meanwhile is asked from its first."""
    moments: list[pb.Moment] = []
    epoch, missed = 0, 0
    while True:
        after = moments[-1].sequence if moments else 0
        request = pb.ListMomentsRequest(after_sequence=after, limit=AT_ONCE)
        answer = await fleet.ListMoments(request, timeout=CALL_SECONDS)
        if epoch and answer.epoch != epoch:
            moments, epoch, missed = [], 0, 0
            continue
        epoch, missed = answer.epoch, missed + answer.missed_moments
        moments += answer.moments
        if len(answer.moments) < AT_ONCE:
            break
    devices = [device.id for device in answer.devices]
    return timeline_of(moments, devices, stamp(answer), last_seconds=last_seconds, missed=missed)
