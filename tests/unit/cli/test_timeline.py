"""Timelines out of recorded moments: what lies where, and the three files that are written."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from PIL import Image

from atelier.cli.life import Span
from atelier.cli.timeline_chart import FAULT, LEFT, PREEMPTED, RIGHT, Box, chart, nice_step
from atelier.cli.timeline_lanes import Timeline, covered, timeline
from atelier.cli.timeline_page import page, svg
from atelier.cli.timeline_perfetto import trace_events
from atelier.cli.timeline_png import write_png
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2 as v1


def moment(at: float, kind: pb.MomentKind.ValueType, **fields: object) -> pb.Moment:
    one = pb.Moment(kind=kind, **fields)  # type: ignore[arg-type]
    one.time.FromNanoseconds(round((1_000 + at) * 1e9))
    return one


def life(
    name: str, queued: float, began: float, ended: float, device: str = "d0", left_by: str = "",
    model: str = "tiny-image",
) -> list[pb.Moment]:  # fmt: skip
    """Denoised from a tenth of a second on, and given back a tenth before its end."""
    about = {"generation_id": name, "model": model}
    told = [
        moment(queued, pb.MOMENT_KIND_QUEUED, attempt=1, **about),
        moment(began, pb.MOMENT_KIND_RUNNING, attempt=1, device_id=device, count=1, **about),
        moment(began + 0.1, pb.MOMENT_KIND_PHASE, attempt=1, phase=v1.PHASE_DENOISING, **about),
    ]
    if left_by:
        return [*told, moment(ended, pb.MOMENT_KIND_QUEUED, attempt=2, reason=left_by, **about)]
    uploading = moment(
        ended - 0.1, pb.MOMENT_KIND_PHASE, attempt=1, phase=v1.PHASE_UPLOADING, **about
    )
    return [*told, uploading, moment(ended, pb.MOMENT_KIND_ENDED, attempt=1,
            state=v1.GENERATION_STATE_SUCCEEDED, **about)]  # fmt: skip


def recorded() -> Timeline:
    moments = [
        moment(0.0, pb.MOMENT_KIND_LOADING, device_id="d0", model="tiny-image"),
        moment(2.0, pb.MOMENT_KIND_LOADED, device_id="d0", model="tiny-image"),
        *life("a", 0.0, 2.0, 5.1),
        *life("b", 1.0, 3.0, 6.0, left_by="PREEMPTED"),
        *life("c", 2.0, 3.5, 4.0, left_by="DEVICE_LOST"),
        *life("d", 5.0, 6.5, 8.1, model="tiny <video>"),
        moment(7.0, pb.MOMENT_KIND_DEVICE, device_id="d1", reason="it hangs", failed=True),
        moment(9.0, pb.MOMENT_KIND_DEVICE, device_id="d1"),
    ]
    return timeline(moments, ["d0", "d1"], 1_010.0)


def test_what_runs_together_lies_above_each_other() -> None:
    lane, other = recorded().lanes
    slots = [(block.generation, block.slot, block.left_by) for block in lane.blocks]
    assert slots == [("a", 0, ""), ("b", 1, "PREEMPTED"), ("c", 2, "DEVICE_LOST"), ("d", 0, "")]
    assert lane.blocks[0].span.end == pytest.approx(1_005.0), "given back before it was uploaded"
    assert [(span.name, span.seconds) for span in other.faults] == [("it hangs", 2.0)]


def test_a_devices_time_adds_up() -> None:
    told = recorded()
    busy, loading, idle = told.lanes[0].shares(told.start, told.end)
    assert busy == pytest.approx(0.55)  # 2 to 6 and 6.5 to 8 of 10 seconds
    assert loading == pytest.approx(0.2)
    assert busy + loading + idle == pytest.approx(1)
    spans = [Span("", 0, 2), Span("", 1, 3), Span("", 5, 9)]
    assert covered(spans, 0.5, 6) == pytest.approx(3.5)


def test_who_waits_is_counted_from_each_change_on() -> None:
    told = recorded()
    most = max(sum(counts.values()) for _, counts in told.waiting)
    assert most == 3, "b and c again, and d"
    assert told.waiting[-1][1] == {"tiny-image": 2, "tiny <video>": 0}


def test_only_the_last_seconds_are_told_where_that_is_asked() -> None:
    moments = [*life("a", 0.0, 1.0, 2.1), *life("b", 7.0, 8.0, 9.1)]
    told = timeline(moments, ["d0"], 1_010.0, last_seconds=4.0)
    assert (told.start, [b.generation for b in told.lanes[0].blocks]) == (1_006.0, ["b"])


def test_a_large_fleet_leaves_out_who_did_nothing() -> None:
    devices = [f"d{number}" for number in range(1_000)]
    told = timeline(life("a", 0.0, 1.0, 2.0), devices, 1_010.0)
    assert ([lane.device for lane in told.lanes], told.left_out) == (["d0"], 999)


def test_shapes_lie_on_the_sheet_and_marks_tell_how_it_was_left() -> None:
    drawn = chart(recorded())
    timed = [shape for shape in drawn.shapes if isinstance(shape, Box) and shape.span]
    assert all(LEFT - 3 <= box.x <= drawn.width - RIGHT for box in timed)
    assert all(0 <= box.y <= drawn.height - box.height for box in timed)
    marks = [box.fill for box in timed if box.kind == "mark"]
    assert marks == [PREEMPTED, FAULT]
    [fault] = [box for box in timed if box.kind == "fault"]
    assert "d1 takes no work: it hangs, 2.00 s" in fault.tip


def test_the_page_needs_nothing_but_itself() -> None:
    drawn = chart(recorded())
    told = page(drawn)
    ElementTree.fromstring(svg(drawn))  # well-formed, whatever models are called
    assert "tiny &lt;video&gt;" in told and "tiny <video>" not in told
    addresses = set(re.findall(r"https?://[^\"' <]+", told))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a name, that nobody fetches"
    assert not re.search(r"\b(src|href)=|@import|fetch\(", told)


def test_the_picture_shows_the_models_in_their_colours(tmp_path: Path) -> None:
    drawn = chart(recorded())
    write_png(drawn, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (round(drawn.width * 2), round(drawn.height * 2))
        block = next(
            s for s in drawn.shapes
            if isinstance(s, Box) and s.kind == "block" and "denoise" in s.tip
        )  # fmt: skip
        at = round(2 * (block.x + block.width / 2)), round(2 * (block.y + block.height / 2))
        assert image.getpixel(at) == tuple(bytes.fromhex(block.fill[1:]))


def test_perfetto_gets_whole_events_inside_the_time_that_is_told() -> None:
    told = recorded()
    events = json.loads(json.dumps(trace_events(told)))["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {"waiting", "d0", "d1"}
    spans = [e for e in events if e["ph"] == "X"]
    assert all(e["ts"] >= 0 and e["ts"] + e["dur"] <= 10_000_000 for e in spans)
    assert {e["name"] for e in spans} >= {
        "tiny-image", "denoise", "load tiny-image", "takes no work",
    }  # fmt: skip
    assert [e["name"] for e in events if e["ph"] == "i"] == ["PREEMPTED", "DEVICE_LOST"]


def test_marks_of_the_axis_are_round() -> None:
    assert [nice_step(x) for x in (0.013, 0.5, 1.1, 6, 100)] == [0.02, 0.5, 2, 10, 100]
