"""Orderings that matter, as text: what the core decides, event by event."""

import math

from scheduler.runqueue import Ticket
from scheduler.sched import Bind, Load, Sched, Unload
from scheduler.trace import decision_line, state_line
from tests.support.cards import profile, toy_card

CARDS = {name: toy_card(name, profiles=profile(activation_bytes=10, batch_cap=4)) for name in "abc"}


def ticket(name: str, model: str = "a", *, rows: int = 1, level: int = 1, at: float = 0) -> Ticket:
    return Ticket(name, "local", model, "64x64", rows, 4, level, submitted=at, deadline=math.inf)


def sched(*, capacity: int = 150, resident: str = "", devices: int = 1) -> Sched:
    core = Sched(CARDS)
    for i in range(devices):
        core.device_up(f"d{i}", "n", capacity, list(resident), now=0.0)
    return core


def decide(core: Sched, now: float = 0.0) -> list[str]:
    lines = [decision_line(decision) for decision in core.schedule(now)]
    core.check_integrity()
    return lines


def test_a_model_that_waits_is_loaded_then_its_ticket_leads() -> None:
    core = sched()
    core.submit(ticket("1"))
    core.submit(ticket("2", level=2))
    assert decide(core) == ["load a on d0 for 2"]
    assert decide(core) == []
    core.loaded("d0", "a", now=1.0)
    assert decide(core) == ["bind 2 -> d0", "bind 1 -> d0"]


def test_a_resident_model_runs_at_once_and_the_batch_stops_at_its_cap() -> None:
    core = sched(resident="a")
    for i in range(6):
        core.submit(ticket(str(i)))
    assert decide(core) == [f"bind {i} -> d0" for i in range(4)]
    core.drop("1")
    assert decide(core) == ["bind 4 -> d0"]


def test_rows_count_not_generations() -> None:
    core = sched(resident="a")
    core.submit(ticket("1", rows=3))
    core.submit(ticket("2", rows=2))
    assert decide(core) == ["bind 1 -> d0"]


def test_memory_bounds_the_batch_before_the_cap() -> None:
    core = sched(capacity=125, resident="a")
    for i in range(4):
        core.submit(ticket(str(i)))
    assert decide(core) == ["bind 0 -> d0", "bind 1 -> d0"]


def test_room_is_made_by_the_least_recently_used_idle_model() -> None:
    core = sched(capacity=250)
    core.device_up("d0", "n", 250, ["a"], now=5.0)
    core.loaded("d0", "b", now=1.0)
    core.submit(ticket("1", "c"))
    assert decide(core, 6.0) == ["unload b from d0"]
    assert decide(core, 6.0) == []
    core.unloaded("d0", "b", still_resident=False, now=7.0)
    assert decide(core, 7.0) == ["load c on d0 for 1"]


def test_a_model_in_use_is_not_unloaded_but_drains_for_an_older_ticket() -> None:
    core = sched(resident="a")
    core.submit(ticket("1", "a"))
    assert decide(core) == ["bind 1 -> d0"]
    core.submit(ticket("2", "b"))
    core.submit(ticket("3", "a"))
    assert decide(core, 1.0) == ["bind 3 -> d0"]  # b has not waited for as long as its load takes
    core.submit(ticket("4", "a"))
    core.drop("3")
    core.schedule(2.0)  # 4 joins, and the device is marked to drain
    core.submit(ticket("5", "a"))
    assert decide(core, 3.0) == []
    core.drop("1")
    core.drop("4")
    assert decide(core, 3.0) == ["unload a from d0"]


def test_a_second_idle_device_gets_a_replica_only_when_the_first_is_full() -> None:
    core = sched(devices=2)
    core.submit(ticket("0"))
    assert decide(core) == ["load a on d0 for 0"]
    core.loaded("d0", "a", now=1.0)
    for i in range(1, 6):
        core.submit(ticket(str(i)))
    assert decide(core, 1.0) == [*(f"bind {i} -> d0" for i in range(4)), "load a on d1 for 4"]
    core.loaded("d1", "a", now=2.0)
    assert decide(core, 2.0) == ["bind 4 -> d1", "bind 5 -> d1"]


def test_a_replica_too_small_for_a_ticket_is_no_home_for_it() -> None:
    core = Sched(CARDS)
    core.device_up("d0", "n", 115, ["a"], now=0.0)
    core.device_up("d1", "n", 200, ["b"], now=0.0)
    core.submit(ticket("1", "a", rows=3))
    assert decide(core) == ["unload b from d1"]
    core.unloaded("d1", "b", still_resident=False, now=1.0)
    assert decide(core, 1.0) == ["load a on d1 for 1"]


def test_an_idle_neighbour_makes_room_for_activations() -> None:
    core = sched(capacity=215, resident="ab")
    core.submit(ticket("1", "a", rows=2))
    assert decide(core) == ["unload b from d0"]
    core.unloaded("d0", "b", still_resident=False, now=1.0)
    assert decide(core, 1.0) == ["bind 1 -> d0"]


def test_a_failed_load_backs_off_then_gives_its_ticket_up() -> None:
    core = sched()
    core.submit(ticket("1"))
    now = 0.0
    for failures in range(3):
        assert decide(core, now) == ["load a on d0 for 1"]
        given_up = core.load_failed("d0", "a", now)
        assert (given_up is not None) == (failures == 2)
        assert decide(core, now) == []
        now += 10.0


def test_a_lost_device_gives_back_what_it_was_to_run() -> None:
    core = sched(resident="a")
    core.submit(ticket("1"))
    core.submit(ticket("2", "b"))
    core.schedule(0.0)
    assert [t.id for t in core.device_down("d0")] == ["1"]
    assert len(core.queues) == 1
    core.check_integrity()


def test_a_quarantined_device_gets_nothing() -> None:
    core = sched(resident="a")
    core.quarantine("d0", "its Triton does not answer")
    core.submit(ticket("1"))
    assert decide(core) == []
    core.quarantine("d0", "")
    assert decide(core) == ["bind 1 -> d0"]


def test_a_ticket_removed_while_its_model_loads_is_forgotten() -> None:
    core = sched()
    core.submit(ticket("1"))
    core.schedule(0.0)
    assert core.remove("1")
    core.loaded("d0", "a", now=1.0)
    assert decide(core, 1.0) == []


def test_the_state_fits_on_one_line() -> None:
    core = sched(resident="a")
    core.submit(ticket("1"))
    core.submit(ticket("2", "b"))
    core.schedule(0.0)
    assert state_line(core) == (
        "queued=1[b/64x64:1] d0{run=1 next=- resident=a load=- unload=- mem=110/150}"
    )


def test_decisions_are_values() -> None:
    t = ticket("1")
    assert decision_line(Bind(t, "d")) == "bind 1 -> d"
    assert decision_line(Load("a", "d", t)) == "load a on d for 1"
    assert decision_line(Unload("a", "d")) == "unload a from d"
