"""The gateway's servicers over a real line to a scheduler, real or scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from atelier.catalog import Catalog
from atelier.config import ObjectStoreSettings
from atelier.service import serving
from atelier.stores import Stores
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from gateway.generation_servicer import GenerationServicer
from gateway.inputs import Inputs
from gateway.results import Results
from gateway.scheduler_client import SchedulerClient
from tests.support.callers import everybody_is
from tests.support.cards import toy_card
from tests.support.ports import free_address
from tests.support.processes import Process, scheduler_process

Stub = generation_pb2_grpc.GenerationServiceStub


@asynccontextmanager
async def gateway(scheduler_address: str, call_timeout_seconds: float = 5.0) -> AsyncIterator[Stub]:
    """A caller's line to a gateway."""
    settings = ObjectStoreSettings(
        s3_endpoint="127.0.0.1:9",
        s3_access_key="a",
        s3_secret_key="s",  # type: ignore[arg-type]
    )
    client = SchedulerClient(scheduler_address, call_timeout_seconds)
    store = Stores.from_settings(settings)
    inputs, results = Inputs(store), Results(store, 60)
    servicer = GenerationServicer(client, Catalog({"toy": toy_card()}), inputs, results)
    address = free_address()

    def register(server: grpc.aio.Server) -> None:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)

    known = [everybody_is("local")]
    async with (
        serving(address, [], register, interceptors=known),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Stub(channel)
    inputs.close()
    await client.close()


@pytest.fixture
def scheduler(dsn: str, tmp_path: Path) -> Iterator[Process]:
    with scheduler_process(dsn, tmp_path) as process:
        yield process


def create(**changes: object) -> pb.CreateGenerationRequest:
    image = pb.ImageSpec(prompt="a red circle")
    return pb.CreateGenerationRequest(model="toy", image=image, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "request_", "fields"),
    [
        ("CreateGeneration", create(deadline=Timestamp(seconds=10**17)), {"deadline"}),
        (
            "ListGenerations",
            pb.ListGenerationsRequest(
                filter=pb.GenerationFilter(model="\0", created_after=Timestamp(seconds=10**17))
            ),
            {"filter.model", "filter.created_after"},
        ),
        ("CreateGeneration", create(labels={f"{n:099}": "" for n in range(200)}), {"labels"}),
        (
            "CreateGeneration",
            create(labels={f"{'钥' * 60}{n}": "值" * 300 for n in range(16)}),
            {*(f"labels[{'钥' * 60}{n}]"[:34] for n in range(16)), "..."},
        ),
    ],
)
async def test_bad_input_comes_back_by_field_whatever_its_size(
    method: str, request_: Message, fields: set[str]
) -> None:
    async with gateway(free_address()) as stub:  # nobody there: none of it reaches the scheduler
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await getattr(stub, method)(request_)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    [_, packed] = rpc_status.from_call(refused.value).details
    assert packed.Unpack(bad)
    assert {violation.field[:34] for violation in bad.field_violations} <= fields


async def test_pages_of_large_generations_fit_any_client(scheduler: Process) -> None:
    made = []
    async with gateway(scheduler.address, 30.0) as stub:
        image = pb.ImageSpec(prompt="é" * 4_000, negative_prompt="é" * 4_000)
        large = pb.CreateGenerationRequest(model="toy", image=image)
        for _ in range(3):
            answers = await asyncio.gather(*(stub.CreateGeneration(large) for _ in range(100)))
            made += [answer.generation.id for answer in answers]
        found, token, pages = [], "", 0
        while pages == 0 or token:
            page = await stub.ListGenerations(
                pb.ListGenerationsRequest(page_size=1_000, page_token=token)
            )
            found += [generation.id for generation in page.generations]
            token, pages = page.next_page_token, pages + 1
    assert pages > 1 and sorted(found) == sorted(made)


async def test_a_watch_ends_with_a_reason_while_the_scheduler_is_away() -> None:
    async with gateway(free_address(), 0.5) as stub:
        call = stub.WatchGeneration(
            pb.WatchGenerationRequest(id="019f3c3a-0000-7000-8000-000000000000")
        )
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await asyncio.wait_for(call.read(), 10)
    assert away.value.code() is grpc.StatusCode.UNAVAILABLE


class Stopping(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Cuts its first watcher off with CANCELLED, as a server that stops does."""

    def __init__(self) -> None:
        self.calls = 0

    async def FollowGeneration(
        self, request: scheduler_pb2.FollowGenerationRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[scheduler_pb2.FollowGenerationResponse]:
        self.calls += 1
        queued, done = pb.GENERATION_STATE_QUEUED, pb.GENERATION_STATE_SUCCEEDED
        state = queued if self.calls == 1 else done
        yield scheduler_pb2.FollowGenerationResponse(
            generation=pb.Generation(id=request.id, state=state)
        )
        if self.calls == 1:
            await context.abort(grpc.StatusCode.CANCELLED)


async def test_a_watch_that_the_scheduler_cuts_off_is_taken_up_again() -> None:
    address, scheduler = free_address(), Stopping()

    def register(server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, server)

    async with serving(address, [], register):
        client = SchedulerClient(address, 5.0)
        seen = [view.state async for view in client.follow("local", "x")]
        await client.close()
    assert seen == [pb.GENERATION_STATE_QUEUED, pb.GENERATION_STATE_SUCCEEDED]
