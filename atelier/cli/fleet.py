"""Operators' commands: the fleet as the scheduler sees it, orders to it, and its decisions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console

from atelier.cli import fleet_words as words
from atelier.cli import problems
from atelier.cli.where import Gateway, line_to, program
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc

CALL_SECONDS = 30.0
LOOK_SECONDS = 0.3  # between two looks at what is waited for


@asynccontextmanager
async def fleet_at(where: Gateway) -> AsyncIterator[fleet_pb2_grpc.FleetServiceStub]:
    """A gateway's FleetService."""
    async with line_to(where) as line:
        yield fleet_pb2_grpc.FleetServiceStub(line)


async def devices(where: Gateway, console: Console, *, as_json: bool) -> None:
    """Print every device and every queue."""
    there = await look(where)
    if as_json:
        print_json(there)
        return
    if there.devices:
        console.print(words.device_table(list(there.devices)))
    else:
        say(console, "no device is connected, and none is drained or pinned to")
    for queue in there.queues:
        say(console, words.queue_line(queue))


async def look(where: Gateway, timeout: float = CALL_SECONDS) -> pb.FleetSnapshot:
    """Every device and every queue."""
    async with fleet_at(where) as fleet:
        listed = await fleet.ListDevices(pb.ListDevicesRequest(), timeout=timeout)
        waiting = await fleet.ListQueues(pb.ListQueuesRequest(), timeout=timeout)
    return pb.FleetSnapshot(devices=listed.devices, queues=waiting.queues)


async def drained(where: Gateway) -> list[str]:
    """A line on each device that an operator keeps from working, and how to have it work again."""
    async with fleet_at(where) as fleet:
        listed = await fleet.ListDevices(pb.ListDevicesRequest(), timeout=CALL_SECONDS)
    return [
        f"{one.id} is drained and takes no work: {one.drain_reason}"
        f" (`{program('atelier')} undrain {one.id} {where.option}`)"
        for one in listed.devices
        if one.drain_reason
    ]


async def drain(where: Gateway, device: str, reason: str, console: Console, *, wait: bool) -> None:
    """Give a device no new work; where that is wanted, wait until it runs nothing.

    Raises:
        ProblemError: it was refused; or it was waited for, and somebody else undrained it.
    """
    async with fleet_at(where) as fleet:
        order = pb.DrainDeviceRequest(device_id=device, reason=reason)
        found = (await fleet.DrainDevice(order, timeout=CALL_SECONDS)).device
        if wait:
            found = await _until(
                fleet, found, lambda d: not d.running or not d.drain_reason, console
            )
            if not found.drain_reason:
                raise problems.ProblemError([f"{device} was undrained meanwhile; drain it again"])
    left = len(found.running)
    if left and found.state == pb.DEVICE_STATE_DRAINING:
        say(console, f"{device} takes no more work, and has {left} to finish (--wait waits for it)")
    else:
        say(console, f"{device} is {words.state(found)}")


async def undrain(where: Gateway, device: str, console: Console) -> None:
    """Give a drained device work again."""
    async with fleet_at(where) as fleet:
        order = pb.UndrainDeviceRequest(device_id=device)
        found = (await fleet.UndrainDevice(order, timeout=CALL_SECONDS)).device
    say(console, f"{device} is {words.state(found)}")


async def load(where: Gateway, model: str, device: str, console: Console, *, wait: bool) -> None:
    """Load a model; where that is wanted, wait until it is there.

    Raises:
        ProblemError: it was refused; or it was waited for, and failed.
    """
    async with fleet_at(where) as fleet:
        order = pb.LoadModelRequest(model=model, device_id=device)
        found = (await fleet.LoadModel(order, timeout=CALL_SECONDS)).device
        if wait:
            found = await _until(fleet, found, lambda d: d.loading_model != model, console)
            if model not in found.resident_models:
                raise problems.ProblemError(
                    [f"{found.id} could not load {model}: the log of its agent tells why"]
                )
    if model in found.resident_models:
        say(console, f"{model} is on {found.id}")
    else:
        say(console, f"{found.id} loads {model}: about {found.load_expected_seconds:.1f} s")


async def unload(where: Gateway, model: str, device: str, console: Console) -> None:
    """Unload an idle model."""
    async with fleet_at(where) as fleet:
        order = pb.UnloadModelRequest(model=model, device_id=device)
        found = (await fleet.UnloadModel(order, timeout=CALL_SECONDS)).device
    unloads = found.unloading_model == model
    say(console, f"{device} unloads {model}" if unloads else f"{model} is not on {device}")


async def pin(where: Gateway, model: str, device: str, console: Console) -> None:
    """Keep a model on a device."""
    async with fleet_at(where) as fleet:
        order = pb.PinModelRequest(model=model, device_id=device)
        found = (await fleet.PinModel(order, timeout=CALL_SECONDS)).device
    line = f"{model} is pinned on {device}"
    if found.loading_model == model:
        line += f", which loads it: about {found.load_expected_seconds:.1f} s"
    elif model not in found.resident_models:
        line += ", which loads it as soon as it can"
    say(console, line)


async def unpin(where: Gateway, model: str, device: str, console: Console) -> None:
    """Leave a pinned model to the scheduler."""
    async with fleet_at(where) as fleet:
        order = pb.UnpinModelRequest(model=model, device_id=device)
        await fleet.UnpinModel(order, timeout=CALL_SECONDS)
    say(console, f"{model} is not pinned on {device}")


async def decisions(where: Gateway, last: int, console: Console, *, as_json: bool) -> None:
    """Print the latest decisions with their reasons, then the whole state on one line."""
    async with fleet_at(where) as fleet:
        trace = await fleet.GetTrace(pb.GetTraceRequest(limit=last), timeout=CALL_SECONDS)
    if as_json:
        print_json(trace)
        return
    for decision in trace.decisions:
        say(console, words.decision_line(decision))
    say(console, trace.state_line)


async def _until(
    fleet: fleet_pb2_grpc.FleetServiceStub,
    device: pb.Device,
    holds: Callable[[pb.Device], bool],
    console: Console,
) -> pb.Device:
    """The device as it is once `holds`."""
    with console.status(f"waiting for {device.id}"):
        while not holds(device):
            await asyncio.sleep(LOOK_SECONDS)
            listed = await fleet.ListDevices(pb.ListDevicesRequest(), timeout=CALL_SECONDS)
            there = {one.id: one for one in listed.devices}
            if device.id not in there:
                raise problems.ProblemError([f"{device.id} has left the fleet"])
            device = there[device.id]
    return device


def print_json(message: Message) -> None:
    """One line of JSON, with every field, as grpcurl names them."""
    content = MessageToDict(message, always_print_fields_with_no_presence=True)
    typer.echo(json.dumps(content, ensure_ascii=False))


def say(console: Console, line: str, style: str | None = None) -> None:
    console.print(line, style=style, soft_wrap=True, highlight=False, markup=False)
