"""The fleet in words: what an operator reads."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from rich.console import Console

from atelier.cli import fleet_words as words
from atelier.cli.watch import Telling
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2

GIB = 2**30


def device(**fields: object) -> pb.Device:
    known = {"id": "cpu-0", "node": "n", "state": pb.DEVICE_STATE_READY, "hardware": "cpu"}
    return pb.Device(**{**known, **fields})  # type: ignore[arg-type]


def shown(*devices: pb.Device) -> str:
    console = Console(width=240)
    with console.capture() as capture:
        console.print(words.device_table(list(devices)))
    return capture.get()


def test_a_state_has_its_reason() -> None:
    draining = device(state=pb.DEVICE_STATE_DRAINING, reason="new fans", drain_reason="new fans")
    assert words.state(draining) == "draining: new fans"
    assert words.state(device()) == "ready"
    lost = device(state=pb.DEVICE_STATE_LOST, reason="no agent", drain_reason="new fans")
    assert words.state(lost) == "lost (and drained: new fans): no agent"


def test_models_tell_what_comes_goes_and_stays() -> None:
    busy = device(
        resident_models=["a", "b"], pinned_models=["a", "c", "d"], loading_model="c",
        load_expected_seconds=12.0, unloading_model="e", host_memory_models=["b", "f"],
    )  # fmt: skip
    busy.load_start_time.FromSeconds(int(time.time()) - 3)
    first, second, loading, unloading, at_hand, missing = words.models(busy)
    assert (first, second) == ("a (pinned)", "b")
    assert loading.startswith("c (loading, ") and loading.endswith(" of 12 s)")
    assert (unloading, missing) == ("e (unloading)", "d (pinned, not there)")
    assert at_hand == "f (in host memory)"


def test_what_runs_is_told_with_its_step() -> None:
    one = pb.RunningGeneration(
        id="g", model="m", shape="64x64", rows=2, step=3, total_steps=20,
        phase=generation_pb2.PHASE_DENOISING,
    )  # fmt: skip
    assert words.running(one) == "g m 64x64, 2 rows: step 3 of 20"
    one.phase = generation_pb2.PHASE_DECODING
    assert words.running(one) == "g m 64x64, 2 rows: decoding"


def test_what_no_driver_tells_has_no_column() -> None:
    plain = shown(device(capacity_bytes=GIB, reserved_bytes=GIB // 2))
    assert "1,024 MiB" in plain and "512 MiB" in plain
    assert "measured" not in plain and "°C" not in plain
    gpu = shown(device(measured_bytes=GIB, temperature_celsius=61, power_watts=250.4))
    assert "measured" in gpu and "61" in gpu and "250" in gpu


def test_names_are_not_taken_for_markup() -> None:
    assert "[red]" in shown(device(id="[red]"))


def test_a_queue_tells_its_classes() -> None:
    queue = pb.Queue(model="m", shape="64x64", depth=3, oldest_wait_seconds=1.25)
    queue.classes.add(priority=generation_pb2.PRIORITY_INTERACTIVE, depth=1)
    queue.classes.add(priority=generation_pb2.PRIORITY_BATCH, depth=2, late=1)
    assert words.queue_line(queue) == (
        "3 wait for m 64x64 (1 interactive, 2 batch of which 1 late), the oldest for 1.2 s"
    )


def decision(sequence: int, **fields: object) -> pb.Decision:
    return pb.Decision(sequence=sequence, **fields)  # type: ignore[arg-type]


def test_a_decision_is_a_line() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
    load = decision(
        7, kind=pb.DECISION_KIND_LOAD, model="m", device_id="d", evicted_models=["a", "b"],
        reason="gain 3, cost 1",
    )  # fmt: skip
    load.time.FromDatetime(at)
    assert words.decision_line(load) == (
        f"{at.astimezone():%H:%M:%S}.678  load    m on d instead of a, b: gain 3, cost 1"
    )
    run = decision(8, kind=pb.DECISION_KIND_RUN, generation_id="g", model="m", device_id="d")
    assert words.decision_line(run).endswith("run     g (m) on d")
    hold = decision(9, kind=pb.DECISION_KIND_HOLD, node="n", host_memory_models=["a", "b"])
    assert words.decision_line(hold).endswith("hold    a, b in the memory of n")


# What `watch` tells of a stream.


def told(telling: Telling, **news: object) -> list[str]:
    answer = pb.WatchFleetResponse(**news)  # type: ignore[arg-type]
    return [line.split(maxsplit=1)[1] for line, _ in telling.lines(answer)]


def snapshot(epoch: int, last: int, *devices: pb.Device) -> pb.FleetSnapshot:
    return pb.FleetSnapshot(epoch=epoch, last_sequence=last, devices=devices)


def test_a_device_is_told_where_its_state_changes() -> None:
    telling = Telling()
    assert told(telling, snapshot=snapshot(1, 0, device())) == ["device  cpu-0 is ready"]
    busy = pb.FleetChange(devices=[device(utilisation_percent=90)])
    assert told(telling, change=busy) == []
    drained = device(state=pb.DEVICE_STATE_DRAINED, reason="fans", drain_reason="fans")
    assert told(telling, change=pb.FleetChange(devices=[drained])) == [
        "device  cpu-0 is drained: fans"
    ]
    gone = pb.FleetChange(gone_device_ids=["cpu-0"])
    assert told(telling, change=gone) == ["device  cpu-0 has left the fleet"]


def test_what_was_missed_is_told() -> None:
    telling = Telling()
    told(telling, snapshot=snapshot(1, 10))
    assert told(telling, gap=pb.FleetGap(missed_decisions=5)) == [
        "gap     5 decisions were made too fast to be told"
    ]
    told(telling, decisions=pb.FleetDecisions(decisions=[decision(16), decision(17)]))
    assert told(telling, snapshot=snapshot(1, 17)) == []
    assert told(telling, snapshot=snapshot(1, 20)) == ["gap     3 decisions were made meanwhile"]
    assert told(telling, snapshot=snapshot(2, 4)) == ["notice  the scheduler was restarted"]
