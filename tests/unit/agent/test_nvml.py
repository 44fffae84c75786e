"""The driver: our own words over NVIDIA's real Python library, over a fake driver in C."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_nvml.build import compile_driver
from tests.support.fake_nvml.control import GPU_IS_LOST, FakeDriver

MIB, GIB = 1 << 20, 1 << 30
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def driver_path(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return compile_driver(tmp_path_factory.mktemp("driver"))


class Teller:
    """A process with the driver, asked line by line."""

    def __init__(self, environment: dict[str, str], patience: float, gpus: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_nvml.teller", str(patience), *gpus],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=ROOT, env=os.environ | environment,
        )  # fmt: skip

    def ask(self, question: str = "sample") -> list[Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        answer: list[Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        assert self._process.wait(20) == 0
        self._process.stdout.close()


Start = Callable[..., Teller]


@pytest.fixture
def driver(tmp_path: Path) -> FakeDriver:
    return FakeDriver(tmp_path / "script", gpus=8)


@pytest.fixture
def teller(driver_path: dict[str, str], driver: FakeDriver) -> Iterator[Start]:
    started = []

    def start(*gpus: str, patience: float = 5.0, **environment: str) -> Teller:
        there = driver_path | {"FAKE_NVML": str(driver.path)} | environment
        started.append(Teller(there, patience, gpus))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_what_a_gpu_tells(teller: Start, driver: FakeDriver) -> None:
    gpu = driver.gpus[0]
    gpu.utilisation, gpu.temperature, gpu.milliwatts, gpu.ecc = 97, 71, 312_500, 2
    driver.hold(0, os.getpid(), GIB)
    (told,) = teller("0").ask()
    assert told == {
        "used_bytes": GIB + 300 * MIB, "free_bytes": 23 * GIB - 300 * MIB, "total_bytes": 24 * GIB,
        "utilisation_percent": 97, "temperature_celsius": 71, "power_watts": 312.5,
        "uncorrected_ecc_errors": 2, "holders": [{"pid": os.getpid(), "bytes": GIB}], "xids": [],
        "mig_profile": "", "lost": "", "answered": True,
    }  # fmt: skip


def test_memory_that_jumps(teller: Start, driver: FakeDriver) -> None:
    told = teller("0")
    assert told.ask("used") == [300 * MIB]
    driver.gpus[0].base = 20 * GIB
    assert told.ask("used") == [20 * GIB]
    assert told.ask()[0]["free_bytes"] == 4 * GIB
    driver.gpus[0].base = 1 * GIB
    assert told.ask("used") == [1 * GIB]


def test_eight_devices_each_its_own(teller: Start, driver: FakeDriver) -> None:
    for index in range(8):
        driver.gpus[index].base = (index + 1) * GIB
    names = [str(i) for i in range(7)] + ["GPU-7"]
    assert teller(*names).ask("used") == [(i + 1) * GIB for i in range(8)]


def test_a_gpu_that_falls_off_the_bus_and_comes_back(teller: Start, driver: FakeDriver) -> None:
    told = teller("0", "1")
    assert [m["lost"] for m in told.ask()] == ["", ""]
    driver.gpus[1].error = GPU_IS_LOST
    first, second = told.ask()
    assert first["lost"] == ""
    assert "fell off the bus" in second["lost"]
    assert told.ask("used")[1] == 0
    driver.gpus[1].error = 0
    assert [m["lost"] for m in told.ask()] == ["", ""]
    driver.script.count = 1  # it is not even listed any more
    driver.gpus[1].error = GPU_IS_LOST
    told.ask()
    driver.gpus[1].error = 0
    assert "does not know it" in told.ask()[1]["lost"]


def test_a_slow_driver_gives_its_last_word_and_is_asked_once(
    teller: Start, driver: FakeDriver
) -> None:
    told = teller("0", "1", patience=0.3)
    told.ask()
    driver.gpus[0].base = 5 * GIB
    driver.gpus[0].slow_ms = 60_000
    for _ in range(4):
        slow, quick = told.ask()
        assert (slow["answered"], slow["used_bytes"]) == (False, 300 * MIB)
        assert quick["answered"]
    calls = driver.script.calls
    told.ask()
    asked = driver.script.calls - calls
    assert asked <= 10  # of the quick one alone: the slow one is still at its first question


def test_what_a_plain_card_cannot_tell_is_nothing(teller: Start, driver: FakeDriver) -> None:
    driver.gpus[0].plain = 1
    driver.gpus[0].temperature = 50
    (told,) = teller("0").ask()
    assert (told["power_watts"], told["uncorrected_ecc_errors"]) == (0, 0)
    assert (told["temperature_celsius"], told["lost"], told["answered"]) == (50, "", True)


def test_xids_are_heard(teller: Start, driver: FakeDriver) -> None:
    told = teller("0", "1")
    told.ask()
    driver.gpus[1].raise_xid(79)
    while not (xids := told.ask()[1]["xids"]):
        pass
    assert [xid["code"] for xid in xids] == [79]
    assert told.ask()[0]["xids"] == []


def test_mig_instances_are_devices_of_their_own(teller: Start, driver: FakeDriver) -> None:
    driver.split(0, 2, 10 * GIB)
    driver.gpus[0].mig[0].used, driver.gpus[0].mig[1].used = 1 * GIB, 2 * GIB
    driver.gpus[0].temperature, driver.gpus[0].utilisation = 66, 80
    told = teller("0:0", "MIG-0-1")
    first, second = told.ask()
    assert (first["used_bytes"], second["used_bytes"]) == (1 * GIB, 2 * GIB)
    assert (first["total_bytes"], second["mig_profile"]) == (10 * GIB, "1g.10gb")
    assert (second["temperature_celsius"], second["utilisation_percent"]) == (66, 0)
    driver.gpus[0].raise_xid(94, instance=2)  # the second's own id
    while not (second := told.ask()[1])["xids"]:
        pass
    assert told.ask()[0]["xids"] == []


@pytest.mark.parametrize("why", ["no library", "driver not loaded"])
def test_without_a_driver_nothing_is_known(teller: Start, driver: FakeDriver, why: str) -> None:
    if why == "no library":
        told = teller("0", LD_LIBRARY_PATH="")
    else:
        driver.script.init_error = 9
        told = teller("0")
    (nothing,) = told.ask()
    assert (nothing["answered"], nothing["lost"], nothing["used_bytes"]) == (False, "", 0)
    driver.script.init_error = 0
    assert told.ask()[0]["answered"] == (why != "no library")  # a driver may come late
