"""The command lines and settings that a stack is made of."""

import json
import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from atelier.config import AgentSettings, GatewaySettings, SchedulerSettings, WebhooksSettings
from atelier.embedded.part import Part
from atelier.embedded.rooms import Room
from atelier.embedded.stack import StackOptions, build, cpu_name
from atelier.embedded.state import StateDir
from atelier.embedded.triton import Triton

OWN = ("scheduler", "agent", "gateway", "webhooks")


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Part]:
    state = StateDir(tmp_path / "state")
    state.create()
    return {part.name: part for part in build(state, StackOptions(devices=2)).parts}


def words(part: Part) -> str:
    return " ".join(part.command().argv)


def test_every_part_is_there_and_what_is_needed_comes_first(parts: dict[str, Part]) -> None:
    assert list(parts) == ["postgres", "s3", "triton-0", "triton-1", *OWN]
    seen: set[str] = set()
    for part in parts.values():
        assert set(part.needs) <= seen
        seen.add(part.name)


def test_addresses_differ_and_are_loopback(parts: dict[str, Part]) -> None:
    addresses = [part.address for part in parts.values() if part.address]
    assert len(set(addresses)) == len(parts) - 1  # the agent listens to nobody
    assert all(address.startswith("127.0.0.1:") for address in addresses)


def test_the_same_folder_gives_the_same_addresses(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.create()
    first, second = (build(state, StackOptions()) for _ in range(2))
    assert [p.address for p in first.parts] == [p.address for p in second.parts]


def test_triton_listens_on_loopback_and_guards_its_admin_protocols(parts: dict[str, Part]) -> None:
    line = words(parts["triton-1"])
    port = parts["triton-1"].address.rpartition(":")[2]
    assert "--model-control-mode=explicit" in line
    assert f"--grpc-address=127.0.0.1 --grpc-port={port}" in line
    assert "--allow-http=false --allow-metrics=false" in line
    guarded = line.partition("--grpc-restricted-protocol=")[2].partition(":admin-key=")
    assert {"shared-memory", "model-repository", "model-config"} <= set(guarded[0].split(","))
    key = parts["agent"].command().environment["ATELIER_TRITON_ADMIN_KEY"]
    assert len(key) == 40
    assert guarded[2].startswith(key)


def test_s3_reports_to_nobody_and_keeps_its_keys_to_itself(parts: dict[str, Part]) -> None:
    s3 = parts["s3"]
    s3.prepare()
    command = s3.command()
    line = " ".join(command.argv)
    assert "-master.telemetry=false" in line
    assert "-ip.bind=127.0.0.1" in line
    identities = command.cwd / "identities.json"
    assert stat.S_IMODE(identities.stat().st_mode) == 0o600
    key = json.loads(identities.read_text())["identities"][0]["credentials"][0]
    assert key["secretKey"] not in line
    assert parts["gateway"].command().environment["ATELIER_S3_SECRET_KEY"] == key["secretKey"]


def test_postgres_listens_on_loopback_only(parts: dict[str, Part]) -> None:
    line = words(parts["postgres"])
    assert "listen_addresses=127.0.0.1" in line
    assert "unix_socket_directories= " in line


def test_strangers_learn_nothing_of_our_environment(
    parts: dict[str, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODYS_TOKEN", "secret")
    for name, part in parts.items():
        assert ("SOMEBODYS_TOKEN" in part.command().environment) == (name in OWN)


def test_our_processes_can_read_their_settings(
    parts: dict[str, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "scheduler": SchedulerSettings,
        "agent": AgentSettings,
        "gateway": GatewaySettings,
        "webhooks": WebhooksSettings,
    }
    for name, kind in settings.items():
        with monkeypatch.context() as context:
            for variable, value in parts[name].command().environment.items():
                context.setenv(variable, value)
            try:
                read: object = kind()
            except ValidationError as error:
                pytest.fail(f"{name}: {error}")
            if isinstance(read, GatewaySettings | WebhooksSettings):
                hook = "http://127.0.0.1:5000/hook"
                assert read.webhook_rules.target(hook).url == hook
        if isinstance(read, AgentSettings):
            assert [d.id for d in read.devices] == ["cpu-0", "cpu-1"]
            assert [d.triton_address for d in read.devices] == [
                parts["triton-0"].address,
                parts["triton-1"].address,
            ]


@pytest.mark.parametrize("required", [True, False])
def test_the_gateway_takes_the_folder_s_key_and_asks_for_one_where_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    state = StateDir(tmp_path / "state")
    state.create()
    parts = {part.name: part for part in build(state, StackOptions(require_keys=required)).parts}
    for variable, value in parts["gateway"].command().environment.items():
        monkeypatch.setenv(variable, value)
    read = GatewaySettings()
    assert (read.require_keys, read.operator_keys) == (required, state.key)
    for part in parts.values():
        command = part.command()
        assert state.read_key() not in f"{command.argv} {command.environment}"


def test_every_room_has_the_models_that_triton_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATELIER_MODEL_REPOSITORY", "/elsewhere")
    state = StateDir(tmp_path / "state")
    state.create()
    *_, triton, scheduler, agent, gateway, _ = build(state, StackOptions()).parts
    assert isinstance(triton, Triton)
    for room in (scheduler, agent, gateway):
        told = room.command().environment["ATELIER_MODEL_REPOSITORY"]
        assert told == str(triton.repository)


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: Some CPU @ 2.0GHz\nflags : a b\n")
    assert cpu_name(info) == "Some CPU @ 2.0GHz"
    assert cpu_name(tmp_path / "missing")


def test_of_several_schedulers_everybody_knows_all(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.create()
    parts = {part.name: part for part in build(state, StackOptions(schedulers=2)).parts}
    first, second = parts["scheduler"], parts["scheduler-1"]
    assert isinstance(first, Room) and isinstance(second, Room)
    assert first.address != second.address
    assert second.command().argv[-1] == "scheduler"
    for name in ("agent", "gateway"):
        part = parts[name]
        assert isinstance(part, Room)
        both = f"{first.address},{second.address}"
        assert part.settings["ATELIER_SCHEDULER_ADDRESS"] == both
