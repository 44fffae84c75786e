"""Frames of `atelier top`, from messages as WatchFleet sends them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from atelier.cli.top_fleet import Fleet
from atelier.cli.top_frame import UNBOUNDED, View, draw, memory_bar
from atelier.cli.top_keys import names
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2

GIB = 2**30
NOW = datetime(2026, 11, 23, 3, 0, 0, tzinfo=UTC)


def device(number: int, **fields: object) -> pb.Device:
    known = {
        "id": f"gpu-{number}", "node": "n", "state": pb.DEVICE_STATE_READY,
        "capacity_bytes": 2 * GIB, "reserved_bytes": GIB, "resident_models": ["tiny-image"],
    }  # fmt: skip
    return pb.Device(**{**known, **fields})  # type: ignore[arg-type]


def running(number: int, step: int = 5) -> pb.RunningGeneration:
    return pb.RunningGeneration(
        id=f"01a20662-cf51-78bf-9779-{number:012d}", model="tiny-image", shape="64x64", rows=2,
        phase=generation_pb2.PHASE_DENOISING, step=step, total_steps=20,
        priority=generation_pb2.PRIORITY_NORMAL,
    )  # fmt: skip


def decision(
    sequence: int, kind: pb.DecisionKind.ValueType, age: int = 1, **f: object
) -> pb.Decision:
    made = pb.Decision(sequence=sequence, kind=kind, model="tiny-image", **f)  # type: ignore[arg-type]
    made.time.FromSeconds(int(NOW.timestamp()) - age)
    return made


def snapshot(*devices: pb.Device, epoch: int = 1, **fields: object) -> pb.WatchFleetResponse:
    told = pb.FleetSnapshot(devices=devices, epoch=epoch, **fields)  # type: ignore[arg-type]
    return pb.WatchFleetResponse(snapshot=told)


def decisions(*made: pb.Decision) -> pb.WatchFleetResponse:
    return pb.WatchFleetResponse(decisions=pb.FleetDecisions(decisions=made))


def told(*answers: pb.WatchFleetResponse) -> Fleet:
    fleet = Fleet()
    for answer in answers:
        fleet.take(answer)
    return fleet


def frame(fleet: Fleet, width: int = 120, height: int = UNBOUNDED, view: View | None = None) -> str:
    lines = draw(fleet, view or View(), width, height, NOW, "127.0.0.1:1")
    assert all(line.cell_len <= width for line in lines)
    assert len(lines) <= height
    return "\n".join(line.plain.rstrip() for line in lines)


def test_a_frame_tells_devices_batches_queues_and_decisions() -> None:
    queue = pb.Queue(
        model="tiny-image", shape="64x64", depth=3, oldest_wait_seconds=1.5,
        classes=[pb.QueueClass(priority=generation_pb2.PRIORITY_BATCH, depth=3)],
    )  # fmt: skip
    fleet = told(
        snapshot(device(0, running=[running(1)]), queues=[queue]),
        decisions(
            decision(1, pb.DECISION_KIND_LOAD, 90, device_id="gpu-0"),
            decision(2, pb.DECISION_KIND_LOAD, device_id="gpu-0", evicted_models=["other"]),
            decision(3, pb.DECISION_KIND_PREEMPT, generation_id="g", device_id="gpu-0"),
        ),
    )
    shown = frame(fleet)
    assert "1 ready  1 run  3 wait" in shown
    assert "0 started, 1 loaded, 1 evicted, 1 preempted, 0 refused" in shown
    assert "gpu-0 ready        ███████······· 1.00 of 2.00       2      -  tiny-image" in shown
    assert "tiny-image 64x64 ×2    normal" in shown
    assert "━━········ step 5 of 20" in shown
    assert "3 wait for tiny-image 64x64 (3 batch), the oldest for 1.5 s" in shown
    assert shown.index("preempt g") < shown.index("instead of other"), "the latest comes first"


def test_memory_that_is_measured_beyond_what_is_held_stands_out() -> None:
    bar = memory_bar(device(0, measured_bytes=int(1.5 * GIB)), 8)
    assert bar.plain == "████▒▒··"
    assert memory_bar(device(0, reserved_bytes=9 * GIB), 8).plain == "████████"
    assert memory_bar(pb.Device(id="away"), 8).plain == "········"


@pytest.mark.parametrize("width", [20, 60, 120])
@pytest.mark.parametrize("height", [8, 40])
def test_a_thousand_devices_fit_any_terminal(width: int, height: int) -> None:
    fleet = told(snapshot(*(device(n, running=[running(n)]) for n in range(1_000))))
    view = View(chosen="gpu-7")
    shown = frame(fleet, width, height, view)
    assert len(shown.splitlines()) == height
    assert "gpu-7 " in shown, "what is chosen is in sight"
    view.chosen = view.rows[-1]
    last = "…0999" if width < 100 else "000000000999"
    assert last in frame(fleet, width, height, view)


def test_what_is_chosen_stays_so_when_the_order_changes() -> None:
    fleet = told(snapshot(*(device(n, waiting_generations=n) for n in range(100))))
    view = View(chosen="gpu-50")
    frame(fleet, 80, 24, view)
    view.sort = "waiting"
    assert "gpu-50" in frame(fleet, 80, 24, view)
    assert (view.chosen, view.rows[0]) == ("gpu-50", "gpu-99")
    fleet.take(pb.WatchFleetResponse(change=pb.FleetChange(gone_device_ids=["gpu-50"])))
    frame(fleet, 80, 24, view)
    assert view.chosen in fleet.devices


def test_the_orders_put_what_matters_first() -> None:
    fleet = told(
        snapshot(
            device(0),
            device(1, state=pb.DEVICE_STATE_LOST, reason="its agent is not connected"),
            device(2, reserved_bytes=2 * GIB),
            device(3, running=[running(1)]),
        )
    )
    assert fleet.sorted("trouble")[0].id == "gpu-1"
    assert fleet.sorted("memory")[0].id == "gpu-2"
    assert fleet.sorted("running")[0].id == "gpu-3"
    assert fleet.sorted("id", backwards=True)[0].id == "gpu-3"
    assert "its agent is not connected" in frame(fleet)


def test_another_scheduler_counts_anew() -> None:
    fleet = told(snapshot(device(0)), decisions(decision(7, pb.DECISION_KIND_RUN)))
    fleet.take(decisions(decision(7, pb.DECISION_KIND_RUN)))
    assert [d.sequence for d in fleet.news] == [7], "told twice, it is one"
    fleet.take(snapshot(device(1), epoch=2))
    assert (list(fleet.devices), list(fleet.news)) == (["gpu-1"], [])
    fleet.take(decisions(decision(1, pb.DECISION_KIND_RUN)))
    assert [d.sequence for d in fleet.news] == [1]


def test_what_would_steer_the_terminal_is_not_passed_on() -> None:
    hostile = device(0, state=pb.DEVICE_STATE_QUARANTINED, reason="bad\x1b[2J\nnews")
    hostile.resident_models.append("m\x1b]0;x\x07")
    shown = frame(told(snapshot(hostile), decisions(
        decision(1, pb.DECISION_KIND_REJECT, reason="late\x1b[31m"))))  # fmt: skip
    assert "\x1b" not in shown and "\x07" not in shown
    assert "bad?[2J?news" in shown


def test_a_question_takes_the_place_of_the_keys() -> None:
    fleet = told(snapshot(device(0)))
    assert "q quit" in frame(fleet, height=20)
    assert frame(fleet, height=20, view=View(question="drain gpu-0?")).endswith("drain gpu-0? y/n")


def test_keys_have_names_and_unknown_sequences_are_nothing() -> None:
    assert names("\x1b[A\x1b[Bj\x1b[5~q") == ["up", "down", "down", "page up", "q"]
    assert names("\x1b[1;5C\x1b[200~") == []
    assert names("\x1b") == ["escape"]
    assert names("\r") == ["enter"]
