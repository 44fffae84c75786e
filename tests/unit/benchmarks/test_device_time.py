"""Accounts of device time add up, and say where it went."""

from __future__ import annotations

import pytest

from benchmarks.device_time import Done, account, of_simulation
from scheduler.runqueue import Late
from scheduler.simulation.simulate import Simulation
from tests.support.scenarios import small

HORIZON = 20.0
PLACES = ("useful", "slow", "between", "turnaround", "loading", "around", "idle")


def step(
    began: float, ended: float, *requests: int, device: str = "d", kind: str = "steps"
) -> Done:
    return Done(kind, device, began, ended, min(1.0, ended - began), requests, len(requests))


def accounts(*done: Done, **submitted: float) -> dict[str, float]:
    came = {int(name.strip("_")): at for name, at in submitted.items()}
    found = account(done, ["d"], came, HORIZON)
    assert sum(found[place] for place in PLACES) == pytest.approx(HORIZON)
    return {name: round(value, 6) for name, value in found.items() if value}


def test_a_device_with_nothing_to_do_is_idle() -> None:
    assert accounts() == {"idle": 20}


def test_what_a_step_takes_beyond_its_profile_is_not_useful() -> None:
    assert accounts(step(0, 1.25, 1), _1=0) == {
        "useful": 1, "slow": 0.25, "idle": 18.75, "row_steps": 1,
    }  # fmt: skip


def test_a_gap_between_steps_of_one_batch_is_the_houses() -> None:
    found = accounts(step(0, 1, 1), step(1.5, 2.5, 1, 2), step(3, 4, 2, kind="decode"), _1=0, _2=0)
    assert found["between"] == 1
    assert found["gaps"] == 2


def test_a_gap_to_what_waited_already_is_turnaround_and_to_what_had_not_come_is_idle() -> None:
    found = accounts(step(0, 1, 1), step(3, 4, 2), _1=0, _2=2.5)
    assert (found["turnaround"], found["idle"]) == (0.5, 1.5 + 16)


def test_a_gap_with_a_load_in_it_is_the_loads_and_what_is_around_it() -> None:
    load = Done("load", "d", 2, 8, 6.0)
    found = accounts(step(0, 1, 1), load, step(9, 10, 2), _1=0, _2=0)
    assert (found["loading"], found["around"], found["idle"]) == (6, 2, 10)


def test_nothing_counts_after_the_horizon() -> None:
    found = accounts(step(0, 1, 1), step(19.5, 20.5, 2), step(25, 26, 3), _1=0, _2=19.5, _3=19.75)
    assert (found["useful"], found["row_steps"]) == (1.5, 1.5)
    found = accounts(step(25, 26, 3), _3=19.75)
    assert (found["turnaround"], found["idle"]) == (0.25, 19.75)


def test_the_simulators_accounts_are_its_own() -> None:
    scenario = small("zipf40", rho=1.0)
    run = Simulation(scenario, Late.CASCADE, keep_timeline=True).run()
    found = account(
        of_simulation(run.timeline),
        [gpu.id for gpu in scenario.gpus],
        {int(t.id): t.submitted for t in scenario.requests},
        scenario.horizon,
    )
    assert found["useful"] == pytest.approx(run.busy)
    assert found["slow"] == pytest.approx(0, abs=1e-6)
    total = sum(found[place] for place in PLACES)
    assert total == pytest.approx(len(scenario.gpus) * scenario.horizon)
