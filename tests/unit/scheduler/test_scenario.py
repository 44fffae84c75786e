"""Scenario folders and what makes them: the same for a seed, and clear about what is wrong."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scheduler.simulation.families import FAMILIES, make
from scheduler.simulation.gentd26 import Options, gentd26
from scheduler.simulation.scenario import ScenarioError, read, write
from scheduler.simulation.world import Scenario
from tests.support.scenarios import small


def offered(scenario: Scenario) -> float:
    """Work that arrives, over what the fleet could do meanwhile."""
    work = sum(
        scenario.models[t.model].gang * scenario.models[t.model].shapes[t.shape].work(t.steps)
        for t in scenario.requests
    )
    return work / scenario.horizon / sum(gpu.speed for gpu in scenario.gpus)


def same(one: Scenario, other: Scenario) -> bool:
    tickets = [[asdict(t) for t in s.requests] for s in (one, other)]
    return tickets[0] == tickets[1] and replace(one, requests=()) == replace(other, requests=())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    made = small(name)
    write(made, tmp_path / made.name)
    assert made.requests
    assert same(made, read(tmp_path / made.name))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_the_same_for_the_same_seed(name: str) -> None:
    assert same(small(name), small(name))
    assert not same(small(name), small(name, seed=2))


@pytest.mark.parametrize("name", ["hot1", "zipf40", "burst", "diurnal", "thrash", "fail"])
def test_a_family_offers_the_load_that_was_asked_for(name: str) -> None:
    loads = [offered(make(name, 0.8, seed)) for seed in range(1, 4)]
    assert pytest.approx(sum(loads) / len(loads), rel=0.07) == 0.8


def test_a_flood_comes_on_top_and_from_one_tenant() -> None:
    made = make("flood", 1.0, 1)
    of_first = sum(1 for t in made.requests if t.tenant == "0")
    assert 0.4 < of_first / len(made.requests) < 0.7
    assert {t.level for t in made.requests} == {1}


def test_devices_fail_and_recover_in_turns() -> None:
    made = make("fail", 0.8, 1)
    assert made.failures
    for gpu in made.gpus:
        events = [event for _, event, name in made.failures if name == gpu.id]
        assert events == (["fail", "recover"] * len(events))[: len(events)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(small("gang"), tmp_path / "gang")
    return tmp_path / "gang"


def edit(folder: Path, name: str, *path: str | int, to: object) -> None:
    content = json.loads((folder / name).read_text())
    at = content
    for step in path[:-1]:
        at = at[step]
    if to is None:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "path", "to", "said"),
    [
        ("fleet.json", ("gpus", 3, "mem_gb"), None, "fleet.json: gpus[3]: mem_gb: missing"),
        ("fleet.json", ("gpus", 0, "speed"), 0, "fleet.json: gpus[0]: speed: 0 is out of range"),
        ("fleet.json", ("gpus",), [], "fleet.json: gpus: no devices"),
        ("fleet.json", ("failures",), [{"t": 1, "event": "fail", "gpu": 99}],
         "fleet.json: failures[0]: gpu: no device has the id 99"),
        ("models.json", ("models", 1, "shapes", 0, "step_a_s"), "fast",
         "models.json: models[1]: shapes[0]: step_a_s: 'fast' is not a number"),
        ("models.json", ("version",), 2, "models.json: version: 2 is not known; 1 is"),
        ("scenario.json", ("horizon_s",), -1, "scenario.json: horizon_s: -1 is out of range"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(
    folder: Path, name: str, path: tuple[str | int, ...], to: object, said: str
) -> None:
    edit(folder, name, *path, to=to)
    with pytest.raises(ScenarioError, match=r".*") as caught:
        read(folder)
    assert said == str(caught.value)


@pytest.mark.parametrize(
    ("column", "text", "said"),
    [
        ("priority", "3", "priority: 3 is not 0, 1 or 2"),
        ("model", "mona-lisa", "model: 'mona-lisa' is not in models.json"),
        ("shape", "9x9", "has no '9x9'"),
        ("t", "soon", "t: 'soon' is not a number"),
        ("steps", "0", "steps: 0 is out of range"),
        ("id", "0", "id: 0 again"),
    ],
)
def test_a_wrong_line_of_the_trace_is_named(
    folder: Path, column: str, text: str, said: str
) -> None:
    with (folder / "trace.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[2][column] = text
    with (folder / "trace.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ScenarioError, match=r"^trace\.csv line 4: ") as caught:
        read(folder)
    assert said in str(caught.value)


def test_a_missing_file_and_a_missing_column_are_named(folder: Path) -> None:
    (folder / "trace.csv").write_text("id,t\n")
    with pytest.raises(ScenarioError, match=r"trace\.csv line 1: no column tenant, priority"):
        read(folder)
    (folder / "models.json").write_text('{"version": 1,\n models}')
    with pytest.raises(ScenarioError, match=r"models\.json line 2"):
        read(folder)
    (folder / "fleet.json").unlink()
    with pytest.raises(ScenarioError, match=r"fleet\.json: No such file"):
        read(folder)


def test_optional_columns_and_the_host_tier_are_read(folder: Path) -> None:
    edit(folder, "fleet.json", "nodes", to=[{"id": 0, "host_mem_gb": 256}])
    edit(folder, "models.json", "models", 0, "load_host_s", to=0.5)
    head, first = (folder / "trace.csv").read_text().splitlines()[:2]
    (folder / "trace.csv").write_text(f"{head},group\n{first}77.5,g1\n")
    scenario = read(folder)
    assert scenario.host_memory == {"0": 256e9}
    assert [m.load_host for m in scenario.models.values() if m.load_host is not None] == [0.5]
    assert [(t.deadline, t.group) for t in scenario.requests] == [(77.5, "g1")]


def test_shared_parts_are_read_and_must_agree(folder: Path, tmp_path: Path) -> None:
    part = {"name": "vae", "weights_gb": 0.25}
    for i in range(2):
        edit(folder, "models.json", "models", i, "shared", to=[part])
    scenario = read(folder)
    assert [m.shared for m in scenario.models.values()][:2] == [{"vae": 0.25e9}] * 2
    write(scenario, tmp_path / "again")
    assert read(tmp_path / "again").models == scenario.models
    edit(folder, "models.json", "models", 1, "shared", to=[part | {"weights_gb": 0.5}])
    with pytest.raises(ScenarioError, match=r"vae has 0\.5 GB"):
        read(folder)
    edit(folder, "models.json", "models", 1, "shared", to=[part | {"weights_gb": 500}])
    with pytest.raises(ScenarioError, match="larger than weights_gb"):
        read(folder)


HEAD = (
    "gmt_create,predict_type,predict_status,exec_time_seconds,groupId,prompt_length,"
    "negative_prompt_length,num_images_per_prompt,num_inference_steps,"
    "checkpoint_model_version_id,num_lora\n"
)


def test_the_trace_becomes_pictures_with_gaps_squeezed_and_time_compressed(tmp_path: Path) -> None:
    requests, loads = tmp_path / "requests.csv", tmp_path / "loads.csv"
    lines = [
        ("2024-11-15 10:00:00", "G0000", "4.0", "30.0", "M0"),
        ("2024-11-15 10:00:30", "G0001", "1.0", "20.0", "M1"),
        ("2024-11-15 23:00:00", "G0002", "", "", "M0"),
    ]
    requests.write_text(
        HEAD
        + "".join(f"{t},TXT_2_IMG,SUCCEED,1,{u},1,1,{n},{s},{m},0\n" for t, u, n, s, m in lines)
    )
    loads.write_text("timestamp_anon,value,container_ip\n1.0,10000.0,a\n2.0,20000.0,b\n")
    made = gentd26(requests, loads, Options(rho=0.5, load_factor=0.2, devices=2))
    assert [sum(t.group == g for t in made.requests) for g in "012"] == [4, 1, 1]
    assert [t.steps for t in made.requests] == [30] * 4 + [20, 30]
    assert [next(t.level for t in made.requests if t.group == g) for g in "012"] == [2, 0, 1]
    assert {m.load for m in made.models.values()} <= {2.0, 4.0}
    assert pytest.approx(offered(made)) == 0.5
    at = [t.submitted / made.horizon for t in made.requests]
    assert pytest.approx(at, abs=1e-3) == [0, 0, 0, 0, 1 / 3, 1]  # 30 s and (squeezed) 60 s


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.csv: No such file"):
        gentd26(tmp_path / "none.csv", tmp_path / "none.csv", Options(rho=0.5))
