"""Cases sent one after another, many at a time, and what came of them."""

from __future__ import annotations

import asyncio
import base64
import pkgutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from random import Random
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import atelier.v1
from gateway.scopes import SCOPE_OF
from tests.fuzz.messages import WAYS, body
from tests.fuzz.values import Seen
from tests.fuzz.verdict import wrong_with

AT_ONCE = 16
SECONDS = 30.0  # after which a call counts as hanging
# It waits, for half of its caller's time at most, for a test's answer, which nobody fetches here.
PATIENCE = {"/atelier.v1.WebhookService/TestWebhook": 4.0}
MOST_SHOWN = 4_000  # bytes of a request in a report


@dataclass
class Found:
    """ends: calls by method and by how they ended. complaints: whatever no caller should see."""

    cases: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    ends: dict[str, Counter[str]] = field(default_factory=dict)
    complaints: list[dict[str, str]] = field(default_factory=list)


def methods_of(services: Collection[str]) -> list[MethodDescriptor]:
    """Every method of services by their full names."""
    for module in pkgutil.iter_modules(atelier.v1.__path__):
        if module.name.endswith("_pb2"):
            import_module(f"atelier.v1.{module.name}")
    pool = descriptor_pool.Default()
    return [m for name in sorted(services) for m in pool.FindServiceByName(name).methods]


def public_methods() -> list[MethodDescriptor]:
    """Every method of ours that a gateway serves."""
    served = {method.split("/")[1] for method in SCOPE_OF}
    return methods_of({name for name in served if name.startswith("atelier.")})


def inner_methods() -> list[MethodDescriptor]:
    """Those of the scheduler's own port that take one request each. Who calls them is a gateway."""
    names = {"Scheduler", "PresetStore", "AccessStore", "WebhookStore", "Fleet"}
    return methods_of({f"atelier.v1.{name}Service" for name in names})


async def run(
    channel: grpc.aio.Channel,
    methods: Sequence[MethodDescriptor],
    *,
    cases: int,
    seed: int,
    key: str = "",
    away: Collection[str] = (),
    trusting: bool = False,
    progress: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Send so many cases. A seed draws the same values, but which of them meet what answers told
    depends on their order. away, trusting: see wrong_with."""
    found, seen, rng = Found(), Seen(), Random(seed)
    metadata = [("authorization", f"Bearer {key}")] if key else []

    async def work() -> None:
        while found.cases < cases:
            method, way = methods[found.cases % len(methods)], rng.choice(WAYS)
            found.cases += 1
            if found.cases % 1_000 == 0:
                progress(found)
            found.ways[way] += 1
            sent = body(rng, way, method.input_type, seen)
            end, wrong = await call(channel, method, sent, seen, metadata, away, trusting=trusting)
            name = f"{method.containing_service.name}.{method.name}"
            found.ends.setdefault(name, Counter())[end] += 1
            if wrong:
                shown = base64.b64encode(sent[:MOST_SHOWN]).decode()
                found.complaints.append(
                    {"method": name, "way": way, "wrong": wrong, "request": shown}
                )

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return found


async def call(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    sent: bytes,
    seen: Seen,
    metadata: Sequence[tuple[str, str]] = (),
    away: Collection[str] = (),
    *,
    trusting: bool = False,
) -> tuple[str, str]:
    """How a call ended (gRPC's code, and the reason), and what is wrong with that.

    Of a stream the first answer is read.
    """
    path = f"/{method.containing_service.full_name}/{method.name}"
    seconds, answer = PATIENCE.get(path, SECONDS), b""
    try:
        if method.server_streaming:
            stream: Any = channel.unary_stream(path)(sent, timeout=seconds, metadata=metadata)
            try:
                first = await stream.read()
                answer = first if first is not grpc.aio.EOF else b""
            finally:
                stream.cancel()
        else:
            answer = await channel.unary_unary(path)(sent, timeout=seconds, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return end_of(error, away, trusting=trusting)
    seen.note(GetMessageClass(method.output_type).FromString(answer))
    return "OK", ""


def end_of(
    error: grpc.aio.AioRpcError, away: Collection[str] = (), *, trusting: bool = False
) -> tuple[str, str]:
    """How a call ended that was refused, and what is wrong with that."""
    code, words = error.code().name, error.details() or ""
    status, info = rpc_status.from_call(error), error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        detail.Unpack(info)
    end = code if info.reason in ("", code) else f"{code} {info.reason}"
    return end, wrong_with(code, words, status, away, trusting=trusting)
