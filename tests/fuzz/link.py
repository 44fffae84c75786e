"""Agents that say what no agent would: streams to the scheduler of made up messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import grpc

from atelier.v1 import agent_pb2 as pb
from tests.fuzz.messages import WAYS, body
from tests.fuzz.run import Found, end_of
from tests.fuzz.values import Seen

CONNECT = "/atelier.v1.AgentService/Connect"
MESSAGES = 30  # of a stream
SECONDS = 10.0  # after which it is left
SPOKEN = [way for way in WAYS if way != "noise"]
# What grpc.aio tells its caller who still writes where the other side has ended the stream.
OUR_SIDE = "Internal error from Core"


async def strange_agents(channel: grpc.aio.Channel, *, streams: int, seed: int) -> Found:
    """So many streams. Two of three begin with a Hello that is taken, for devices that are nobody
    else's."""
    rng, seen = Random(seed), Seen()
    found = Found(cases=streams)
    for number in range(streams):
        end, wrong = await _stream(channel, rng, seen, f"strange-{number % 3}")
        found.ends.setdefault("AgentService.Connect", Counter())[end] += 1
        if wrong:
            found.complaints.append({"method": CONNECT, "way": "", "wrong": wrong, "request": ""})
    return found


async def _stream(
    channel: grpc.aio.Channel, rng: Random, seen: Seen, device: str
) -> tuple[str, str]:
    async def saying() -> AsyncIterator[bytes]:
        if rng.random() < 0.67:
            facts = pb.DeviceFacts(id=device, capacity_bytes=1_000, resident_models=["toy"])
            hello = pb.Hello(node=f"node-of-{device}", devices=[facts])
            yield pb.ConnectRequest(hello=hello).SerializeToString()
        for _ in range(MESSAGES):
            yield body(rng, rng.choice(SPOKEN), pb.ConnectRequest.DESCRIPTOR, seen)
            await asyncio.sleep(0)  # what comes back is read meanwhile

    call = channel.stream_stream(CONNECT)(saying(), timeout=SECONDS)
    try:
        async for answer in call:
            seen.note(pb.ConnectResponse.FromString(answer))
    except grpc.aio.AioRpcError as error:
        if error.details() == OUR_SIDE:
            return "OK", ""
        return end_of(error)
    return "OK", ""
