"""`atelier top`: the fleet as it lives, in a terminal, and its operator's keys."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from copy import deepcopy
from typing import Any

import grpc
from rich.console import Console, ConsoleDimensions, Group
from rich.text import Text

from atelier.cli import fleet_words as words
from atelier.cli import problems
from atelier.cli.life import read_life
from atelier.cli.top_fleet import SORTS, Fleet
from atelier.cli.top_frame import UNBOUNDED, View, draw, plain, utc_now
from atelier.cli.top_keys import typed
from atelier.cli.waterfall import waterfall
from atelier.cli.where import Gateway, line_to
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc, generation_pb2, generation_pb2_grpc

PAST = 200  # decisions told at first
CALL_SECONDS = 10.0
FRAME_SECONDS = 0.2  # between two frames at least: ssh lines are narrow
LONGEST_PAUSE_SECONDS = 8.0


async def once(where: Gateway, sort: str, console: Console) -> None:
    """Print one frame.

    Raises:
        ProblemError: nobody answers.
    """
    fleet = Fleet()
    try:
        async with line_to(where) as channel, asyncio.timeout(CALL_SECONDS):
            request = pb.WatchFleetRequest(past_decisions=PAST)
            async for answer in fleet_pb2_grpc.FleetServiceStub(channel).WatchFleet(request):
                fleet.take(answer)
                if fleet.news or not fleet.last_sequence:
                    break
    except TimeoutError as error:
        raise problems.ProblemError([f"{where} did not answer in time"]) from error
    view = View(sort=sort)
    for line in draw(fleet, view, console.width, UNBOUNDED, utc_now(), where.address):
        console.print(line, soft_wrap=True)


async def top(where: Gateway, sort: str, interval: float, console: Console) -> None:
    """Show the fleet until q or Ctrl-C.

    Raises:
        ProblemError: there is no terminal, or nobody answers at first.
    """
    if not (console.is_terminal and sys.stdin.isatty()):
        raise problems.ProblemError(
            ["this is no terminal: `atelier top --once` prints one frame"], problems.BAD_INPUT
        )
    async with line_to(where) as channel:
        await _Top(channel, where.address, View(sort=sort), interval, console).run()


class _Top:
    """The screen, the stream that fills it, and the keys."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        address: str,
        view: View,
        interval: float,
        console: Console,
    ) -> None:
        self._service = fleet_pb2_grpc.FleetServiceStub(channel)
        self._generations = generation_pb2_grpc.GenerationServiceStub(channel)
        self._address = address
        self._view = view
        self._interval = interval
        self._console = console
        self._fleet = Fleet()
        self._held: Fleet | None = None  # what is shown while it is paused
        self._dirty = asyncio.Event()
        self._ended = asyncio.Event()
        self._asked: Coroutine[Any, Any, None] | None = None  # what a yes does
        self._orders: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until q; nothing here ends the others by failing but a refusal of the first call."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, self._dirty.set)
        with self._console.screen(hide_cursor=True) as screen, typed() as keys:
            work = [
                asyncio.create_task(self._follow()),
                asyncio.create_task(self._listen(keys)),
                asyncio.create_task(self._tick()),
                asyncio.create_task(self._ended.wait()),
            ]
            drawing = asyncio.create_task(self._draw(screen))
            try:
                done, _ = await asyncio.wait([*work, drawing], return_when="FIRST_COMPLETED")
                for task in done:
                    task.result()
            finally:
                for task in [*work, drawing, *self._orders]:
                    task.cancel()
                await asyncio.gather(*work, drawing, *self._orders, return_exceptions=True)
                if self._asked:
                    self._asked.close()

    async def _follow(self) -> None:
        """The stream, taken up again for as long as somebody looks."""
        pause, known = 0.5, False
        while True:
            try:
                past = PAST if not known else 0
                request = pb.WatchFleetRequest(past_decisions=past, interval_seconds=self._interval)
                async for answer in self._service.WatchFleet(request):
                    pause, known = 0.5, True
                    self._fleet.take(answer)
                    self._dirty.set()
            except grpc.aio.AioRpcError as error:
                if not known or not problems.may_pass(error):
                    raise problems.of_call(error, self._address) from error
                self._fleet.note = f"{problems.away(error)}: asking again"
                self._dirty.set()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _draw(self, screen: Any) -> None:
        while True:
            self._dirty.clear()
            # Asked each time: rich would believe COLUMNS and LINES, which do not follow a resize.
            width, height = os.get_terminal_size(sys.stdin.fileno())
            self._console.size = ConsoleDimensions(width, height)
            fleet = self._held or self._fleet
            lines = draw(fleet, self._view, width, height, utc_now(), self._address)
            screen.update(Group(*lines))
            await asyncio.sleep(FRAME_SECONDS)
            await self._dirty.wait()

    async def _tick(self) -> None:
        """The clock, and loads under way, go on where nothing else changes."""
        while True:
            await asyncio.sleep(1.0)
            self._dirty.set()

    async def _listen(self, keys: asyncio.Queue[str]) -> None:
        while not self._ended.is_set():
            self._pressed(await keys.get())
            self._dirty.set()

    def _pressed(self, key: str) -> None:
        view = self._view
        view.said = ""
        if view.question:
            work, self._asked, view.question = self._asked, None, ""
            if work and key == "y":
                self._do(work)
            elif work:
                work.close()
            return
        match key:
            case "q":
                self._ended.set()
            case "escape":
                view.detail = ()
            case "up" | "down" | "page up" | "page down" | "home" | "end":
                self._move(key)
            case "s":
                names = list(SORTS)
                view.sort = names[(names.index(view.sort) + 1) % len(names)]
            case "r":
                view.backwards = not view.backwards
            case "p":
                view.paused = not view.paused
                self._held = deepcopy(self._fleet) if view.paused else None
            case "enter":
                self._inspect()
            case "d" | "u" | "c":
                self._order(key)

    def _move(self, key: str) -> None:
        view = self._view
        if not view.rows:
            return
        page = max(1, self._console.height // 2)
        far = {"up": -1, "down": 1, "page up": -page, "page down": page}
        at = view.rows.index(view.chosen) if view.chosen in view.rows else 0
        last = len(view.rows) - 1
        at = {"home": 0, "end": last}.get(key, at + far.get(key, 0))
        view.chosen = view.rows[max(0, min(at, last))]

    def _inspect(self) -> None:
        chosen = self._view.chosen
        if device := self._fleet.devices.get(chosen):
            self._view.detail = [Text(), *device_lines(device), Text("escape closes", "dim")]
        elif chosen:
            self._do(self._show_life(chosen))

    async def _show_life(self, generation_id: str) -> None:
        life = await read_life(self._service, generation_id)
        lines = waterfall(life, self._console.width)
        self._view.detail = [Text(), *lines, Text("escape closes", "dim")]

    def _order(self, key: str) -> None:
        """Ask before it is done. A device is drained, a generation cancelled."""
        chosen, on_device = self._view.chosen, self._view.chosen in self._fleet.devices
        if not chosen:
            return
        if on_device == (key == "c"):
            kind = "a generation" if key == "c" else "a device"
            self._view.said = f"choose {kind} first"
            return
        verb = {"d": "drain", "u": "undrain", "c": "cancel"}[key]
        self._view.question = f"{verb} {plain(chosen)}?"
        self._asked = self._carry_out(key, chosen)

    async def _carry_out(self, key: str, chosen: str) -> None:
        if key == "c":
            cancel = generation_pb2.CancelGenerationRequest(id=chosen)
            await self._generations.CancelGeneration(cancel, timeout=CALL_SECONDS)
            self._view.said = f"{chosen} is cancelled"
        elif key == "d":
            drain = pb.DrainDeviceRequest(device_id=chosen)
            found = (await self._service.DrainDevice(drain, timeout=CALL_SECONDS)).device
            self._view.said = f"{chosen} is {words.state(found)}"
        else:
            undrain = pb.UndrainDeviceRequest(device_id=chosen)
            found = (await self._service.UndrainDevice(undrain, timeout=CALL_SECONDS)).device
            self._view.said = f"{chosen} is {words.state(found)}"

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside the keys; what goes wrong is said in the last line."""

        async def done() -> None:
            try:
                await work
            except grpc.aio.AioRpcError as error:
                self._view.said = " ".join(problems.of_call(error, self._address).lines)
            self._dirty.set()

        task = asyncio.create_task(done())
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)


def device_lines(device: pb.Device) -> list[Text]:
    """All that is known of one device, a line each."""
    mib = words.mebibytes
    lines = [
        ("device", f"{device.id} of {device.node}: {device.hardware} {device.mig_profile}"),
        ("state", words.state(device)),
        ("memory", f"{mib(device.reserved_bytes)} held of {mib(device.capacity_bytes)},"
                   f" {mib(device.free_bytes)} may be given"),
        ("measured", f"{mib(device.measured_bytes)} used, {mib(device.measured_free_bytes)} free,"
                     f" {device.utilisation_percent} % busy, {device.temperature_celsius} °C,"
                     f" {device.power_watts:.0f} W"),
        ("models", "; ".join(words.models(device)) or "-"),
        ("errors", f"{device.uncorrected_ecc_errors} of memory; XIDs {list(device.xids) or '-'}"),
        ("waiting", f"{device.waiting_generations} for its models"),
    ]  # fmt: skip
    if not device.measured_bytes:
        lines = [line for line in lines if line[0] not in ("measured", "errors")]
    return [Text(plain(f"  {name:<10}{what}")) for name, what in lines]
