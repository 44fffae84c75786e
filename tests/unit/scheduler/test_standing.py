"""What operators order, as text: drains, pins, loads, unloads; and corrected costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.standing import OrderRefusedError
from scheduler.trace import check_integrity
from tests.support.core import MODELS, Core, model, ticket


def refused(core: Core, what: str, *arguments: object) -> str:
    with pytest.raises(OrderRefusedError) as error:
        getattr(core.sched, what)(*arguments)
    return error.value.reason


def test_a_drained_device_ends_what_it_runs_and_takes_nothing_new() -> None:
    core = Core(devices=2, resident="a")
    assert core.submit(ticket("1")) == ["bind 1 -> d0"]
    core.sched.drain("d0", "new fans")
    assert core.submit(ticket("2")) == ["bind 2 -> d1"]
    assert core.submit(ticket("3")) == []
    assert core.finish("1") == []
    assert core.follow(core.sched.undrain("d0"), 1.0) == ["bind 3 -> d0"]
    check_integrity(core.sched)


def test_what_a_drained_device_loads_is_not_waited_for() -> None:
    core = Core(devices=2)
    core.sched.drain("d0", "new fans")
    assert core.follow(core.sched.order_load("a", "d0", 0.0), 0.0) == ["load a on d0"]
    assert core.submit(ticket("1")) == ["load a on d1"]
    core.follow(core.sched.loaded("d0", "a", 2.0), 2.0)
    assert core.follow(core.sched.loaded("d1", "a", 2.0), 2.0) == ["bind 1 -> d1"]
    check_integrity(core.sched)


def test_a_drain_while_a_model_is_loaded_has_it_loaded_elsewhere() -> None:
    core = Core(devices=2)
    assert core.submit(ticket("1")) == ["load a on d0"]
    core.sched.drain("d0", "new fans")
    assert core.follow(core.sched.tick(0.5), 0.5) == ["load a on d1"]
    core.sched.undrain("d0")
    assert core.sched.books.copies("a") == 2
    check_integrity(core.sched)


def test_a_drain_outlives_its_device_and_a_quarantine() -> None:
    core = Core(resident="a")
    core.sched.drain("d0", "new fans")
    core.sched.quarantine("d0", "its Triton does not answer")
    core.follow(core.sched.quarantine("d0", ""), 1.0)
    core.sched.device_down("d0")
    core.up("d0", 150.0, "a")
    assert core.submit(ticket("1")) == []
    assert core.follow(core.sched.undrain("d0"), 2.0) == ["bind 1 -> d0"]


def test_a_pinned_model_is_loaded_and_stays() -> None:
    core = Core(usable=250.0, resident="b")
    assert core.follow(core.sched.pin("a", "d0", 0.0), 0.0) == ["load a on d0"]
    core.follow(core.sched.loaded("d0", "a", 1.0), 1.0)
    assert core.submit(ticket("1", "c", at=9.0), 9.0) == ["load c on d0 instead of b"]
    core.follow(core.sched.loaded("d0", "c", 11.0), 11.0)
    core.finish("1", 12.0)
    core.sched.device_down("d0")  # and again after a restart
    core.up("d0", 250.0, now=20.0)
    assert core.follow(core.sched.tick(20.5), 20.5)[0] == "load a on d0"
    core.sched.unpin("a", "d0")
    assert not core.sched.devices["d0"].pinned


def test_pins_that_do_not_fit_together_are_refused() -> None:
    core = Core(resident="a")
    core.sched.pin("a", "d0", 0.0)
    assert refused(core, "pin", "b", "d0", 0.0) == "NO_ROOM"
    assert core.submit(ticket("1", "b")) == []  # nowhere to go while it is pinned


def test_orders_to_load_and_unload() -> None:
    core = Core(devices=2, resident="a")
    assert core.follow(core.sched.order_load("b", "", 0.0), 0.0) == ["load b on d0 instead of a"]
    assert core.sched.order_load("b", "d0", 0.0) == []  # it is on its way
    assert refused(core, "order_load", "c", "d0", 0.0) == "DEVICE_BUSY"
    core.submit(ticket("1"))
    assert refused(core, "order_unload", "a", "d1", 0.0) == "MODEL_IN_USE"
    assert refused(core, "order_load", "b", "d1", 0.0) == "NO_ROOM"  # beside what runs
    core.finish("1", 4.0)
    core.sched.pin("a", "d1", 4.0)
    assert refused(core, "order_unload", "a", "d1", 4.0) == "MODEL_PINNED"
    core.sched.unpin("a", "d1")
    assert core.follow(core.sched.order_unload("a", "d1", 4.0), 4.0) == ["unload a from d1"]
    core.follow(core.sched.unloaded("d1", "a", 5.0), 5.0)
    assert core.follow(core.sched.tick(6.0), 6.0) == []  # not at once again


def test_what_is_measured_larger_makes_its_neighbour_go() -> None:
    core = Core(usable=250.0, resident="ab", models=dict(MODELS))
    core.submit(ticket("1", "a"))
    core.sched.correct(replace(MODELS["a"], weights=180.0))
    check_integrity(core.sched)  # over budget, and known to be
    assert core.follow(core.sched.tick(1.0), 1.0) == ["unload b from d0"]
    core.follow(core.sched.unloaded("d0", "b", 2.0), 2.0)
    core.sched.tick(3.0)
    assert not core.sched.devices["d0"].overdrawn


def test_what_is_measured_too_large_for_every_device_is_still_run() -> None:
    core = Core(resident="a", models=dict(MODELS))  # 150 bytes: the weights, and five rows
    greedy = {"s": replace(MODELS["a"].shapes["s"], activation=90.0)}
    core.sched.correct(replace(MODELS["a"], weights=120.0, shapes=greedy))
    assert core.submit(ticket("1")) == ["bind 1 -> d0"]
    core.follow(core.sched.tick(1.0), 1.0)
    check_integrity(core.sched)
    assert not core.sched.devices["d0"].overdrawn
    assert core.finish("1", 4.0) == []
    core.sched.correct(replace(MODELS["a"], weights=400.0))
    assert core.submit(ticket("2"), 5.0) == ["bind 2 -> d0"]
    core.sched.correct(MODELS["a"])  # it was somebody else's memory
    assert core.sched.models["a"] == MODELS["a"]


def test_a_correction_of_times_changes_what_is_queued() -> None:
    core = Core(models=dict(MODELS))
    core.submit(ticket("1"))
    before = core.sched.queues.work["a"]
    slower = {"s": replace(MODELS["a"].shapes["s"], step_c=2.0)}
    core.sched.correct(replace(MODELS["a"], shapes=slower))
    assert core.sched.queues.work["a"] == 2 * before
    core.sched.remove("1")
    assert core.sched.queues.work["a"] == 0.0


def test_what_its_caller_will_not_wait_for_is_rejected_not_run_late() -> None:
    core = Core(usable=115.0, resident="a", preemption=False)  # room for one
    core.submit(ticket("1", steps=10, level=2))
    hopeless, patient = ticket("2", slo=12.0), ticket("3", slo=12.0)
    hopeless.deadline = 13.0
    core.submit(hopeless)
    core.submit(patient)
    assert core.finish("1", 10.0) == ["reject 2", "bind 3 -> d0"]


def test_a_gangs_model_takes_no_orders() -> None:
    core = Core(models={"g": model("g", gang=2)}, devices=2)
    assert refused(core, "order_load", "g", "", 0.0) == "GANG_MODEL"
    assert refused(core, "pin", "g", "d0", 0.0) == "GANG_MODEL"
