"""Metrics are named as they are declared, and have no more series than was meant."""

from __future__ import annotations

import random
import secrets
import urllib.request
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.steps import Steps
from atelier.generation import Failure, Generation, Priority, State
from atelier.instruments import INSTRUMENTS, Kind
from atelier.labels import OFTEN, OTHER, Capped, rows_of
from atelier.metrics import counter, exported, gauge, histogram, observe
from scheduler.decisions import Load
from scheduler.measures import MOST_TENANTS, Measures, Names
from tests.support.generations import SPEC
from tests.support.ports import free_address


def families(address: str) -> dict[str, list[Any]]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {f.name: f.samples for f in text_string_to_metric_families(text)}


def test_prometheus_sees_each_by_the_name_that_is_declared() -> None:
    address = free_address()
    with exported("test", address) as meter:
        for declared in INSTRUMENTS:
            labels = dict.fromkeys(declared.labels, "x")
            if declared.kind is Kind.HISTOGRAM:
                assert declared.buckets, declared.name
                histogram(meter, declared).record(1, labels)
            elif declared.kind is Kind.COUNTER:
                counter(meter, declared).add(1, labels)
            else:
                gauge(meter, declared).set(1, labels)
        seen = {s.name: s.labels for samples in families(address).values() for s in samples}
    for declared in INSTRUMENTS:
        for name in declared.series:
            assert name in seen, declared.name
            known = {label.replace(".", "_") for label in declared.labels}
            assert seen[name].keys() - {"le"} == known


def test_names_are_declared_once_and_by_the_conventions() -> None:
    names = [declared.name for declared in INSTRUMENTS]
    assert len(set(names)) == len(names)
    for name in names:
        assert name.startswith(("atelier.", "rpc.", "db.")), name
        assert not name.endswith((".total", ".seconds", "_seconds")), "Prometheus adds it"


def test_what_is_looked_at_when_scraped_may_change() -> None:
    address, values = free_address(), [(1.0, {"model": "a"})]
    resident = next(i for i in INSTRUMENTS if i.name == "atelier.model.resident")
    with exported("test", address) as meter:
        observe(meter, resident, lambda: values)  # type: ignore[arg-type, return-value]
        assert [s.value for s in families(address)[resident.prometheus]] == [1.0]
        values[:] = [(2.0, {"model": "b"})]
        told = families(address)[resident.prometheus]
    assert [(s.labels, s.value) for s in told] == [({"model": "b"}, 2.0)]


def row(rng: random.Random, state: State) -> Generation:
    """One of a tenant, a model and a failure that nobody has heard of."""
    began = datetime.now(UTC)
    failed = state is State.FAILED
    return Generation(
        id=secrets.token_hex(8),
        tenant=f"t{rng.getrandbits(60)}\n\x1b[2J",
        model=f"m{rng.getrandbits(60)}",
        spec=SPEC,
        create_time=began,
        start_time=began + timedelta(seconds=1),
        state=state,
        attempt=0 if state is State.QUEUED else 1,
        priority=Priority.NORMAL,
        failure=Failure("INTERNAL", f"R{rng.getrandbits(60)}", "?") if failed else None,
    )


def test_ten_thousand_made_up_names_make_a_bounded_number_of_series() -> None:
    rng, address = random.Random(7), free_address()
    live = cast(Any, SimpleNamespace(sched=SimpleNamespace(models={})))
    with exported("test", address) as meter:
        measures = Measures(meter, live, Names(), clock=lambda: 0.0)
        steps = Steps(meter)
        for n in range(10_000):
            for state in (State.QUEUED, State.RUNNING, State.FAILED if n % 2 else State.SUCCEEDED):
                measures.stood(row(rng, state))
            model = f"m{rng.getrandbits(60)}"
            measures.requeued(f"R{rng.getrandbits(60)}")
            measures.loaded(f"d{n % 8}", model, 1.0, from_host=False, failed=False)
            measures.decided(Load(model, f"d{n % 8}", (model,)))
            steps.record(model, f"s{rng.getrandbits(60)}", rng.randint(1, 64), 0.1)
        found = families(address)
    series = sum(len(samples) for samples in found.values())
    assert series < 9_000
    tenants = {s.labels["tenant"] for s in found["atelier_generations_submitted"]}
    assert len(tenants) <= MOST_TENANTS + 1
    assert OTHER in tenants
    total = [s.value for s in found["atelier_generations_submitted"] if s.name.endswith("_total")]
    assert sum(total) == 10_000  # and nothing is lost by it


@pytest.mark.parametrize("flood", [0, 10_000])
def test_who_comes_often_has_a_name_whatever_came_before(flood: int) -> None:
    capped = Capped(4)
    for n in range(flood):
        capped(f"once-{n}")
    assert {capped("steady") for _ in range(3 * OFTEN)} >= {"steady"}
    assert capped("steady") == "steady"


def test_of_capped_values_no_more_are_named_than_was_said() -> None:
    capped = Capped(4)
    names = [f"n{n}" for n in range(40) for _ in range(OFTEN + 1)]
    told = {capped(name) for name in names}
    assert len(told) == 5
    assert OTHER in told
    assert capped("") == ""


def test_rows_have_six_sizes() -> None:
    assert [rows_of(n) for n in (1, 2, 3, 4, 5, 16, 17, 900)] == [
        "1", "2", "3-4", "3-4", "5-8", "9-16", "17+", "17+",
    ]  # fmt: skip
