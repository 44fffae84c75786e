"""Some hundreds of the fuzzer's cases through the wire, for every method that there is; `make fuzz`
sends 100,000."""

from __future__ import annotations

from pathlib import Path

import grpc

from tests.fuzz.agent import obedient
from tests.fuzz.run import public_methods, run
from tests.fuzz.stack import running


async def test_only_documented_errors_come_back(dsn: str, tmp_path: Path) -> None:
    methods = public_methods()
    with running(dsn, tmp_path) as target:
        async with (
            obedient(target.scheduler.address),
            grpc.aio.insecure_channel(target.gateway.address) as channel,
        ):
            found = await run(
                channel,
                methods,
                cases=600,
                seed=1,
                key=target.key,
                away=["OBJECT_STORE_UNAVAILABLE"],
            )
        told = target.faults()
    assert (found.complaints, told) == ([], [])
    assert len(found.ends) == len(methods)
    taken = [name for name, ends in found.ends.items() if ends["OK"]]
    assert len(taken) > len(methods) * 2 / 3, found.ends  # it gets past the first checks
