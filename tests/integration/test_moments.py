"""ListMoments and TraceGeneration: the fleet as it is remembered, and a generation as it is kept.

Both are an operator's, whoever's the generation is: that no other scope reaches them is among
test_identity's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from atelier.service import serving
from atelier.v1 import agent_pb2, fleet_pb2_grpc
from atelier.v1 import fleet_pb2 as pb
from tests.support.generations import generation
from tests.support.house import House, house_over
from tests.support.ports import free_address

UNKNOWN = "0197aaaa-0000-7000-8000-000000000001"


@pytest.fixture
async def house(dsn: str) -> AsyncIterator[House]:
    async with house_over(dsn) as house:
        house.join()
        yield house


@pytest.fixture
async def fleet(house: House) -> AsyncIterator[fleet_pb2_grpc.FleetServiceStub]:
    def register(server: grpc.aio.Server) -> None:
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(house.operators, server)

    address = free_address()
    async with serving(address, [], register), grpc.aio.insecure_channel(address) as channel:
        yield fleet_pb2_grpc.FleetServiceStub(channel)


async def failed(house: House, tenant: str) -> str:
    """A generation whose only attempt failed for good; its id."""
    made = await house.intake.submit(generation(tenant=tenant))
    run = (await house.command("run")).run
    failure = agent_pb2.AttemptFailed(attempt=run.attempt)
    failure.failure.message = "no"
    house.hear(failed=failure)
    await house.command("settled")
    return made.id


def kinds(moments: list[pb.Moment]) -> list[str]:
    return [pb.MomentKind.Name(m.kind).removeprefix("MOMENT_KIND_") for m in moments]


async def test_a_life_is_told_from_memory_and_from_what_was_kept(
    house: House, fleet: fleet_pb2_grpc.FleetServiceStub
) -> None:
    ended = await failed(house, "acme")
    told = await fleet.TraceGeneration(pb.TraceGenerationRequest(id=ended))
    assert kinds(told.moments) == ["QUEUED", "BOUND", "RUNNING", "ENDED"]
    assert kinds(told.story) == ["QUEUED", "RUNNING", "ENDED"]
    assert all(moment.generation_id == ended for moment in [*told.moments, *told.story])
    assert (told.model, told.moments[-1].device_id) == ("toy", "d0")
    times = [moment.time.ToDatetime() for moment in told.moments]
    assert times == sorted(times) and times[-1] <= told.time.ToDatetime()


@pytest.mark.parametrize("unknown", [UNKNOWN, "", "none of ours", "' OR true --"])
async def test_of_what_is_not_there_nothing_is_told(
    fleet: fleet_pb2_grpc.FleetServiceStub, unknown: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fleet.TraceGeneration(pb.TraceGenerationRequest(id=unknown))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_moments_are_told_by_pages_and_none_twice(
    house: House, fleet: fleet_pb2_grpc.FleetServiceStub
) -> None:
    ids = [await failed(house, tenant) for tenant in ("acme", "other", "acme")]
    whole = await fleet.ListMoments(pb.ListMomentsRequest())
    assert [device.id for device in whole.devices] == ["d0"] and not whole.missed_moments
    assert {moment.generation_id for moment in whole.moments} - {""} == set(ids)
    found: list[pb.Moment] = []
    while True:
        after = found[-1].sequence if found else 0
        page = await fleet.ListMoments(pb.ListMomentsRequest(after_sequence=after, limit=4))
        if not page.moments:
            break
        assert len(page.moments) <= 4
        found += page.moments
    assert found == list(whole.moments)


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("limit", pb.ListMomentsRequest(limit=5_001)),
        ("limit", pb.ListMomentsRequest(limit=-1)),
        ("after_sequence", pb.ListMomentsRequest(after_sequence=-1)),
    ],
)
async def test_a_page_that_cannot_be_is_refused_by_its_field(
    fleet: fleet_pb2_grpc.FleetServiceStub, field: str, asked: pb.ListMomentsRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await fleet.ListMoments(asked)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")
