"""Orderings that matter, as text: what the core decides, event by event."""

from __future__ import annotations

from scheduler.model import Model, Shape
from scheduler.runqueue import Late
from scheduler.trace import check_integrity, state_line
from tests.support.core import Core, model, ticket


def test_a_model_that_waits_is_loaded_then_the_most_urgent_leads() -> None:
    core = Core()
    assert core.submit(ticket("1")) == ["load a on d0"]
    assert core.submit(ticket("2", level=2)) == []
    assert core.follow(core.sched.loaded("d0", "a", 1.0), 1.0) == ["bind 2 -> d0"]


def test_a_newcomer_joins_only_where_work_queues_up() -> None:
    core = Core(resident="a")
    assert core.submit(ticket("1", steps=2)) == ["bind 1 -> d0"]
    assert core.submit(ticket("2", steps=2)) == []  # two seconds of work do not
    assert core.submit(ticket("3", steps=2)) == []
    assert core.submit(ticket("4", steps=2))[0] == "bind 2 -> d0"  # six do
    check_integrity(core.sched)


def test_an_urgent_newcomer_joins_where_both_keep_their_slack() -> None:
    core = Core(resident="a")
    assert core.submit(ticket("1", steps=4)) == ["bind 1 -> d0"]
    assert core.submit(ticket("2", steps=2)) == ["bind 2 -> d0"]
    assert list(core.sched.devices["d0"].running) == ["1", "2"]


def test_who_may_join_depends_on_what_is_left_of_the_batch() -> None:
    core = Core(resident="a")
    core.submit(ticket("1", steps=10, slo=22.0))
    assert core.submit(ticket("2", steps=6), 8.0) == []  # ten steps at half the pace: it is late
    core.sched.advanced("1", "d0", 8)
    assert core.boundary("d0", 8.0) == ["bind 2 -> d0"]
    check_integrity(core.sched)


def test_a_newcomer_is_rescued_where_waiting_would_make_it_late() -> None:
    shape = Shape(step_a=1.0, step_c=0.1, decode=0.0, activation=10.0, batch_cap=4)
    core = Core(resident="a", models={"a": Model("a", 100.0, 2.0, {"s": shape})})
    assert core.submit(ticket("1", slo=8.0)) == ["bind 1 -> d0"]
    assert core.submit(ticket("2", slo=8.5)) == ["bind 2 -> d0"]


def test_the_more_urgent_preempts_at_a_step_boundary_and_the_other_waits_again() -> None:
    core = Core(resident="a")
    assert core.submit(ticket("1", level=0)) == ["bind 1 -> d0"]
    assert core.submit(ticket("2", level=2)) == ["preempt 1 on d0", "bind 2 -> d0"]
    assert core.finish("2", 4.0) == ["bind 1 -> d0"]


def test_without_preemption_the_batch_ends_first() -> None:
    core = Core(resident="a", preemption=False)
    core.submit(ticket("1", level=0))
    assert core.submit(ticket("2", level=2)) == []
    assert core.finish("1", 4.0) == ["bind 2 -> d0"]


def test_memory_bounds_the_batch() -> None:
    core = Core(usable=120.0, resident="a")
    for i in range(6):
        core.submit(ticket(str(i), level=0, steps=8))
    assert len(core.sched.devices["d0"].running) == 2
    check_integrity(core.sched)


def test_the_resident_worth_least_makes_room() -> None:
    core = Core(usable=250.0, resident="ab")
    core.submit(ticket("1", "a"))
    core.finish("1", 4.0)
    assert core.submit(ticket("2", "c", at=5.0), 5.0) == ["load c on d0 instead of b"]


def test_a_model_in_use_is_never_evicted_and_drains_in_the_end() -> None:
    core = Core(resident="a")
    core.submit(ticket("1", "a", steps=400))
    assert core.submit(ticket("2", "b")) == []
    assert core.sched.tick(10.0) == core.sched.tick(60.0) == []
    assert core.submit(ticket("3", "a", at=60.0, level=0), 60.0) == []  # the device drains for 2
    assert core.finish("1", 61.0) == ["load b on d0 instead of a"]


def test_a_replica_too_small_for_a_ticket_is_no_home_for_it() -> None:
    core = Core(devices=0)
    core.up("d0", 115.0, "a")
    core.up("d1", 200.0, "b")
    assert core.submit(ticket("1", "a", rows=3)) == ["load a on d1 instead of b"]


def test_more_rows_than_any_device_has_room_for_go_in_smaller_parts() -> None:
    core = Core(devices=0)
    core.up("d0", 115.0)
    core.up("d1", 125.0)
    many = ticket("1", "a", rows=4)
    assert core.submit(many) == []
    assert core.follow(core.sched.tick(0.5), 0.5) == ["load a on d1"]
    assert core.follow(core.sched.loaded("d1", "a", 2.0), 2.0) == ["bind 1 -> d1"]
    assert many.rows == 2
    check_integrity(core.sched)


def test_a_neighbour_makes_room_for_a_head_that_does_not_fit_beside_it() -> None:
    core = Core(usable=250.0, resident="ab")
    core.sched.devices["d0"].capacity = 215.0
    assert core.submit(ticket("1", "a", rows=2, level=2)) == ["unload b from d0"]
    core.follow(core.sched.unloaded("d0", "b", 1.0), 1.0)
    assert list(core.sched.devices["d0"].running) == ["1"]


def test_a_refused_unload_is_not_asked_for_again_at_once() -> None:
    core = Core(usable=215.0, resident="ab")
    assert core.submit(ticket("1", "a", rows=2)) == ["unload b from d0"]
    core.sched.unload_refused("d0", "b", 1.0)
    assert core.boundary("d0", 1.1) == []
    assert core.boundary("d0", 4.0) == ["unload b from d0"]


def test_a_failed_load_backs_off_then_gives_up_what_waits() -> None:
    core = Core()
    assert core.submit(ticket("1")) == ["load a on d0"]
    now = 0.0
    for failures in range(1, 4):
        given_up = core.sched.load_failed("d0", "a", now)
        assert [t.id for t in given_up] == (["1"] if failures == 3 else [])
        assert core.follow(core.sched.tick(now + 0.5), now + 0.5) == []
        now += 10.0
        if failures < 3:
            assert core.follow(core.sched.tick(now), now) == ["load a on d0"]
    assert not len(core.sched.queues)


def test_a_lost_device_gives_back_what_it_ran() -> None:
    core = Core(devices=2, resident="a")
    core.submit(ticket("1"))
    [lost] = core.sched.device_down("d0")
    assert core.follow(core.sched.again(lost, 1.0), 1.0) == ["bind 1 -> d1"]
    check_integrity(core.sched)


def test_a_quarantined_device_gets_nothing_and_its_models_are_loaded_elsewhere() -> None:
    core = Core(devices=2)
    core.sched.loaded("d0", "a", 0.0)
    core.sched.quarantine("d0", "its Triton does not answer")
    assert core.submit(ticket("1")) == ["load a on d1"]
    assert core.follow(core.sched.quarantine("d0", ""), 1.0) == ["bind 1 -> d0"]
    check_integrity(core.sched)


def test_an_urgent_one_that_missed_its_time_has_its_model_loaded_all_the_same() -> None:
    """Though what is there is worth more, and a load could save it no more when it was looked at:
    in a quiet house it would wait for ever."""
    core = Core(resident="b")
    for i in range(8):
        core.submit(ticket(f"b{i}", "b", level=2, at=4.0 * i), now=4.0 * i)
        core.finish(f"b{i}", now=4.0 * i + 1)
    core.submit(ticket("long", "b", level=2, at=31.0), now=31.0)
    assert core.submit(ticket("1", "a", level=2, slo=10.0, at=32.0), now=32.0) == []
    assert core.finish("long", now=45.0) == []
    assert core.follow(core.sched.tick(50.0), 50.0) == []
    assert core.follow(core.sched.tick(63.0), 63.0) == ["load a on d0 instead of b"]


def test_late_work_comes_down_or_is_refused() -> None:
    for late, expected in ((Late.CASCADE, []), (Late.DOOM, []), (Late.REJECT, ["reject 2"])):
        core = Core(resident="a", late=late)
        core.submit(ticket("1", level=2, slo=5.0))
        core.submit(ticket("2", level=2, slo=6.0))
        assert core.finish("1", 4.0)[: len(expected)] == expected
        assert ("2" in core.sched.books.bound) == (not expected)


def test_a_flood_of_one_tenant_does_not_delay_another() -> None:
    core = Core(resident="a")
    for i in range(100):
        core.submit(ticket(f"1{i:03}", tenant="flood"))
    core.submit(ticket("2", tenant="quiet", at=1.0), 1.0)
    order = []
    for now in range(12):
        for name in list(core.sched.devices["d0"].running):
            order.append(name)
            core.finish(name, float(now))
    assert "2" in order


def test_the_oldest_is_served_now_and_then_whatever_its_class() -> None:
    core = Core(resident="ab", usable=250.0)
    assert core.submit(ticket("1", "a", level=2)) == ["bind 1 -> d0"]
    core.submit(ticket("2", "b", level=0))
    core.submit(ticket("3", "a", level=2, at=3.0), 3.0)
    core.sched.devices["d0"].schedtick = 61
    assert core.finish("1", 400.0)[0] == "bind 2 -> d0"


def test_a_gang_takes_its_devices_together_and_gives_them_back() -> None:
    models = {"a": model("a"), "g": model("g", weights=50.0, gang=2)}
    core = Core(devices=2, usable=250.0, resident="a", models=models)
    assert core.submit(ticket("1", "a", level=0, steps=50)) == ["bind 1 -> d0"]
    assert core.submit(ticket("2", "g", level=2)) == ["load g on d0", "load g on d1"]
    assert core.follow(core.sched.loaded("d0", "g", 2.0), 2.0) == []
    taken = core.follow(core.sched.loaded("d1", "g", 2.0), 2.0)
    assert taken == ["preempt 1 on d0", "bind 2 -> d0"]
    assert core.submit(ticket("3", "a", level=1, at=3.0), 3.0) == []  # both are taken
    assert "bind 3 -> d0" in core.finish("2", 7.0)
    check_integrity(core.sched)


def test_the_state_fits_on_one_line() -> None:
    core = Core(resident="a")
    core.submit(ticket("1"))
    core.submit(ticket("2", "b"))
    assert state_line(core.sched) == (
        "queued=1[b/s:1] d0{run=1 resident=a load=- unload=- mem=110/150}"
    )


def test_a_batch_that_decodes_is_not_joined_past_the_more_urgent() -> None:
    core = Core(resident="a", preemption=False)
    core.submit(ticket("1", steps=2))
    core.sched.advanced("1", "d0", 2)
    core.submit(ticket("2", level=2, steps=8, at=2.0, slo=8.5), 2.0)  # it cannot share
    assert core.submit(ticket("3", level=0, steps=8, at=2.0), 2.0) == []  # this one could
    assert core.finish("1", 2.5)[0] == "bind 2 -> d0"
    check_integrity(core.sched)
