"""The lines between our own parts, with real certificates: who may speak to a scheduler."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from agent.link import scheduler_at
from atelier import lines
from atelier.cli.__main__ import app
from atelier.config import AgentSettings, GatewaySettings, SchedulerSettings
from atelier.errors import AtelierError
from atelier.lines import line_to_peer
from atelier.status import from_rpc_error
from atelier.tls import PeerFiles
from atelier.v1 import agent_pb2, fleet_pb2, fleet_pb2_grpc
from tests.integration.test_identity import database
from tests.support.certificates import Authority
from tests.support.ports import free_address
from tests.support.processes import Process, scheduler_process

HOUSE = "spiffe://example.org/atelier"
NAME = "scheduler.atelier.internal"

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make keys with")


@dataclass(frozen=True)
class House:
    scheduler: Process
    authority: Authority
    gateway: PeerFiles
    agent: PeerFiles  # of the node n0


@pytest.fixture(scope="module")
def house(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("peers")
    authority = Authority(folder / "keys")
    own = authority.signed("scheduler", f"DNS:{NAME}", f"URI:{HOUSE}/scheduler")
    scheduler = scheduler_process(
        database(postgres),
        folder,
        **told_of(own),
        peer_identity=HOUSE,
    )
    scheduler.launch()
    scheduler.until_told("serving")
    yield House(
        scheduler,
        authority,
        authority.signed("gateway", f"URI:{HOUSE}/gateway"),
        authority.signed("agent", f"URI:{HOUSE}/agent/n0"),
    )
    scheduler.stop()


def told(error: grpc.aio.AioRpcError) -> str:
    known = from_rpc_error(error)
    return known.reason if isinstance(known, AtelierError) else error.code().name


async def asked(line: grpc.aio.Channel) -> str:
    """How a gateway's call ends: OK, a reason of ours, or gRPC's code."""
    try:
        fleet = fleet_pb2_grpc.FleetServiceStub(line)
        await fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=5)
    except grpc.aio.AioRpcError as error:
        return told(error)
    return "OK"


async def as_gateway(house: House, peers: PeerFiles, name: str = NAME) -> str:
    async with line_to_peer(house.scheduler.address, peers, name) as line:
        return await asked(line)


async def as_agent(house: House, peers: PeerFiles, node: str) -> str:
    """How an agent's stream begins."""
    try:
        async with scheduler_at(house.scheduler.address, peers, NAME)() as stream:
            facts = [agent_pb2.DeviceFacts(id=f"{node}-d0", capacity_bytes=1_000)]
            hello = agent_pb2.Hello(node=node, devices=facts)
            await stream.write(agent_pb2.ConnectRequest(hello=hello))
            answer = await stream.read()
            assert answer.HasField("welcome")
    except grpc.aio.AioRpcError as error:
        return told(error)
    return "OK"


async def test_each_part_may_do_what_is_its_own(house: House) -> None:
    assert await as_gateway(house, house.gateway) == "OK"
    assert await as_agent(house, house.agent, "n0") == "OK"
    assert await as_gateway(house, house.agent) == "PEER_REFUSED"
    assert await as_agent(house, house.gateway, "n0") == "PEER_REFUSED"
    assert await as_agent(house, house.agent, "n1") == "PEER_REFUSED"
    log = house.scheduler.log.read_text()
    assert f"{HOUSE}/agent/n1" in log and f"{HOUSE}/agent/n0" in log


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://example.org/else/gateway",
        f"{HOUSE}/gateway/x",
        f"{HOUSE}x/gateway",
        f"{HOUSE}/agent/n0",
    ],
)
async def test_a_certificate_of_the_authority_is_not_enough(house: House, uri: str) -> None:
    other = house.authority.signed("other", f"URI:{uri}")
    assert await as_gateway(house, other) == "PEER_REFUSED"
    # Its common name is the gateway's; that says nothing.
    named = house.authority.signed("gateway2", "DNS:gateway")
    assert await as_gateway(house, named) == "PEER_REFUSED"


async def test_who_is_of_another_house_does_not_get_in(house: House, tmp_path: Path) -> None:
    foreign = Authority(tmp_path).signed("gateway", f"URI:{HOUSE}/gateway")
    trusting = PeerFiles(foreign.certificate, foreign.key, house.gateway.authority)
    assert await as_gateway(house, trusting) == "UNAVAILABLE"
    assert await as_gateway(house, foreign) == "UNAVAILABLE"  # who does not trust our scheduler
    async with line_to_peer(house.scheduler.address, None) as line:  # in clear
        assert await asked(line) == "UNAVAILABLE"


async def test_who_answers_must_be_a_scheduler(house: House) -> None:
    assert await as_gateway(house, house.gateway, "gateway.atelier.internal") == "UNAVAILABLE"
    assert await as_gateway(house, house.gateway, "") == "UNAVAILABLE"  # 127.0.0.1 is not its name


async def test_one_of_several_addresses_is_enough(house: House) -> None:
    both = f"{free_address()},{house.scheduler.address}"
    async with line_to_peer(both, house.gateway, NAME, again=True) as line:
        assert await asked(line) == "OK"


def told_of(peers: PeerFiles) -> dict[str, object]:
    """As settings."""
    return {
        "peer_certificate": peers.certificate,
        "peer_key": peers.key,
        "peer_authority": peers.authority,
        "scheduler_name": NAME,
    }


async def test_processes_take_it_from_their_settings(house: House, tmp_path: Path) -> None:
    common = {"scheduler_address": house.scheduler.address, **STORE}
    gateway = Process(
        "gateway", (address := free_address()), tmp_path / "gateway.log", gateway_listen=address,
        require_keys="false", **common, **told_of(house.gateway),
    )  # fmt: skip
    agent = Process(
        "agent", "", tmp_path / "agent.log", node="n0", devices="[]", **common,
        **told_of(house.agent),
    )  # fmt: skip
    agent.launch()
    with gateway:
        async with grpc.aio.insecure_channel(address) as line:
            assert await asked(line) == "OK"
    agent.until_told("connected to the scheduler")
    agent.stop()


def test_an_operator_s_commands_go_by_tls_with_his_certificate(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers = Authority(tmp_path / "callers")  # another than that of the parts
    own = house.authority.signed("door", "IP:127.0.0.1")
    ann, bob = (callers.signed(name, f"URI:spiffe://example.org/{name}") for name in ("ann", "bob"))
    address = free_address()
    gateway = Process(
        "gateway", address, tmp_path / "gateway.log", gateway_listen=address, **STORE,
        scheduler_address=house.scheduler.address, **told_of(house.gateway),
        tls_certificate=own.certificate, tls_key=own.key, tls_client_authority=ann.authority,
        certificate_admins='["spiffe://example.org/ann"]',
    )  # fmt: skip

    def devices(who: PeerFiles, trusted: Path) -> tuple[int, str]:
        monkeypatch.setenv("ATELIER_CLIENT_CERTIFICATE", str(who.certificate))
        monkeypatch.setenv("ATELIER_CLIENT_KEY", str(who.key))
        words = ["--ca-file", str(trusted), "devices", "--json", "--address", address]
        done = CliRunner().invoke(app, words)
        return done.exit_code, done.output

    gateway.launch()
    try:
        gateway.until_told('"serving"')
        status, said = devices(ann, own.authority)
        assert (status, '"devices"' in said) == (0, True), said
        status, said = devices(bob, own.authority)
        assert (status, "takes an API key" in said) == (1, True), said
        status, said = devices(ann, ann.authority)  # the gateway's is not of that one
        assert (status, "nothing answers" in said) == (1, True), said
    finally:
        gateway.stop()


@asynccontextmanager
async def watching(line: grpc.aio.Channel) -> AsyncIterator[Any]:
    fleet = fleet_pb2_grpc.FleetServiceStub(line)
    call = fleet.WatchFleet(fleet_pb2.WatchFleetRequest(interval_seconds=0.2))
    try:
        yield call
    finally:
        call.cancel()


async def test_a_certificate_is_replaced_under_a_line_that_stands(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LOOK_SECONDS", 0.0)
    shown = PeerFiles(tmp_path / "pem", tmp_path / "key", house.gateway.authority)

    def put(files: PeerFiles, *, key: bool = True) -> None:
        shutil.copy(files.certificate, shown.certificate)
        if key:
            shutil.copy(files.key, shown.key)

    put(house.gateway)
    async with line_to_peer(house.scheduler.address, shown, NAME) as line:
        async with watching(line) as watch:
            assert (await watch.read()).HasField("snapshot")
            put(house.agent, key=False)  # half of it: they do not belong together
            assert await asked(line) == "OK"
            put(house.agent)
            assert await asked(line) == "PEER_REFUSED"
            async with scheduler_at(house.scheduler.address, house.agent, NAME)() as stream:
                facts = [agent_pb2.DeviceFacts(id="d9", capacity_bytes=1_000)]
                hello = agent_pb2.Hello(node="n0", devices=facts)
                await stream.write(agent_pb2.ConnectRequest(hello=hello))
                assert await watch.read() is not grpc.aio.EOF  # what stands goes on
        put(house.gateway)
        assert await asked(line) == "OK"
        shown.certificate.unlink()
        assert await asked(line) == "OK"


TLS = {"peer_certificate": "c", "peer_key": "k", "peer_authority": "a"}
STORE = {"s3_endpoint": "127.0.0.1:9", "s3_access_key": "a", "s3_secret_key": "s"}
KINDS: dict[type, dict[str, Any]] = {
    SchedulerSettings: {"scheduler_listen": "127.0.0.1:7", "postgres_dsn": ""},
    GatewaySettings: {**STORE, "gateway_listen": "127.0.0.1:8", "scheduler_address": "127.0.0.1:7"},
    AgentSettings: {**STORE, "scheduler_address": "localhost:7", "node": "n0", "devices": []},
}


@pytest.mark.parametrize(
    ("kind", "far", "more"),
    [
        (SchedulerSettings, {"scheduler_listen": "0.0.0.0:7"}, {"peer_identity": HOUSE}),
        (GatewaySettings, {"scheduler_address": "10.0.0.1:7"}, {}),
        (AgentSettings, {"scheduler_address": "scheduler.internal:7"}, {}),
        (AgentSettings, {"scheduler_address": "127.0.0.1:7,10.0.0.1:7"}, {"scheduler_name": NAME}),
    ],
)
def test_nothing_goes_beyond_loopback_in_clear(
    kind: type, far: dict[str, Any], more: dict[str, Any]
) -> None:
    kind(**KINDS[kind])
    with pytest.raises(ValidationError, match="is not loopback"):
        kind(**{**KINDS[kind], **far})
    kind(**{**KINDS[kind], **far, **TLS, **more})


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        (SchedulerSettings, TLS, "ATELIER_PEER_IDENTITY"),
        (SchedulerSettings, {"peer_certificate": "c", "peer_key": "k"}, "give all"),
        (GatewaySettings, {"peer_authority": "a"}, "give all"),
        (
            GatewaySettings,
            {**TLS, "scheduler_address": "10.0.0.1:7,10.0.0.2:7"},
            "ATELIER_SCHEDULER_NAME",
        ),
    ],
)
def test_what_is_missing_is_named(kind: type, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        kind(**{**KINDS[kind], **settings})
