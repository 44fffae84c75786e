"""Some hundreds of the fuzzer's cases through the wire, for every method that there is; `make fuzz`
sends 100,000."""

from __future__ import annotations

from pathlib import Path

import grpc

from tests.fuzz.agent import obedient, one_is_made
from tests.fuzz.link import strange_agents
from tests.fuzz.run import inner_methods, public_methods, run
from tests.fuzz.stack import DIED, running

STORE_AWAY = "OBJECT_STORE_UNAVAILABLE"  # there is none


async def test_only_documented_errors_come_back_and_no_part_dies(dsn: str, tmp_path: Path) -> None:
    methods = public_methods()
    with running(dsn, tmp_path) as target:
        async with (
            grpc.aio.insecure_channel(target.gateway.address) as gateway,
            grpc.aio.insecure_channel(target.scheduler.address) as scheduler,
        ):
            async with obedient(target.scheduler.address):
                found = await run(
                    gateway, methods, cases=600, seed=1, key=target.key, away=[STORE_AWAY]
                )
                faults = target.faults()
            inner = await run(scheduler, inner_methods(), cases=200, seed=1, trusting=True)
            agents = await strange_agents(scheduler, streams=10, seed=1)
            async with obedient(target.scheduler.address):
                assert await one_is_made(gateway, target.key)
        faults += target.faults(DIED)
    assert (found.complaints, inner.complaints, agents.complaints, faults) == ([], [], [], [])
    assert len(found.ends) == len(methods)
    taken = [name for name, ends in found.ends.items() if ends["OK"]]
    assert len(taken) > len(methods) * 2 / 3, found.ends  # it gets past the first checks
