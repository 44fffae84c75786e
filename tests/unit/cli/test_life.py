"""A generation's life out of its moments, and its waterfall."""

from __future__ import annotations

from atelier.cli.life import build, merged, of_answer
from atelier.cli.waterfall import waterfall
from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import generation_pb2 as v1

ID = "01a20662-cf51-78bf-9779-1df9fc8debfa"
Kind = pb.MomentKind.ValueType


def moment(at: float, kind: Kind, **fields: object) -> pb.Moment:
    known = {"generation_id": ID, "model": "tiny-image", "total_steps": 20}
    one = pb.Moment(kind=kind, **{**known, **fields})  # type: ignore[arg-type]
    one.time.FromNanoseconds(int(at * 1e9))
    return one


def answer(*moments: pb.Moment, story: list[pb.Moment] | None = None) -> pb.TraceGenerationResponse:
    told = pb.TraceGenerationResponse(
        moments=moments, story=story, model="tiny-image",
        state=v1.GENERATION_STATE_SUCCEEDED,
    )  # fmt: skip
    told.time.FromSeconds(1_100)
    return told


TWICE = [
    moment(1_000.0, pb.MOMENT_KIND_QUEUED, attempt=1),
    moment(1_000.1, pb.MOMENT_KIND_LOADING, generation_id="", device_id="d0"),
    moment(1_001.0, pb.MOMENT_KIND_LOADED, generation_id="", device_id="d0"),
    moment(1_001.0, pb.MOMENT_KIND_BOUND, device_id="d0", reason="it leads"),
    moment(1_001.1, pb.MOMENT_KIND_RUNNING, attempt=1, device_id="d0"),
    moment(1_001.2, pb.MOMENT_KIND_PHASE, attempt=1, phase=v1.PHASE_ENCODING_TEXT),
    moment(1_001.3, pb.MOMENT_KIND_PHASE, attempt=1, phase=v1.PHASE_DENOISING),
    moment(1_002.0, pb.MOMENT_KIND_PREEMPTING, device_id="d0"),
    moment(1_002.1, pb.MOMENT_KIND_QUEUED, attempt=2, reason="PREEMPTED"),
    moment(1_002.2, pb.MOMENT_KIND_QUEUED, attempt=2),
    moment(1_003.0, pb.MOMENT_KIND_BOUND, device_id="d1", reason="it joins"),
    moment(1_003.1, pb.MOMENT_KIND_RUNNING, attempt=2, device_id="d1"),
    moment(1_003.2, pb.MOMENT_KIND_PHASE, attempt=2, phase=v1.PHASE_DENOISING),
    moment(1_004.0, pb.MOMENT_KIND_PHASE, attempt=2, phase=v1.PHASE_DECODING),
    moment(1_004.5, pb.MOMENT_KIND_PHASE, attempt=2, phase=v1.PHASE_UPLOADING),
    moment(1_004.9, pb.MOMENT_KIND_PUBLISHING),
    moment(1_005.0, pb.MOMENT_KIND_ENDED, attempt=2, state=v1.GENERATION_STATE_SUCCEEDED),
]


def test_waits_and_attempts_follow_each_other_without_a_gap() -> None:
    life = of_answer(answer(*TWICE), ID)
    first, second = life.attempts
    assert (first.queued, first.began, first.ended, first.left_by) == (
        1_000.0, 1_001.1, 1_002.1, "PREEMPTED",
    )  # fmt: skip
    assert (second.queued, second.began, second.ended, second.device) == (
        1_002.1, 1_003.1, 1_005.0, "d1",
    )  # fmt: skip
    names = [(span.name, round(span.seconds, 3)) for span in second.phases(life.now)]
    assert names == [
        ("denoise", 0.8), ("decode", 0.5), ("encode, upload", 0.4), ("publish", 0.1),
    ]  # fmt: skip
    waits = sum(a.began - a.queued for a in life.attempts if a.began and a.queued)
    runs = sum(a.ended - a.began for a in life.attempts if a.began and a.ended)
    assert abs(waits + runs - (life.end - life.start)) < 1e-6


def test_the_waterfall_tells_each_and_stays_in_its_width() -> None:
    for width in (60, 100, 200):
        lines = waterfall(of_answer(answer(*TWICE), ID), width)
        assert all(line.cell_len <= width for line in lines)
    words = [" ".join(line.plain.replace("█", "").split()) for line in lines]
    assert words[0] == f"{ID} succeeded after 5.000 s, 2 attempts tiny-image, 20 steps"
    assert words[2:6] == [
        "queued 1.100 s", "load on d0 0.900 s", "bound to d0: it leads", "attempt 1 on d0 1.000 s",
    ]  # fmt: skip
    assert "preempted: it goes on from where it was" in words
    assert words[-1] == "publish 0.100 s"
    starts = [line.plain.index("█") for line in lines if "█" in line.plain]
    assert starts[0] < starts[3] < starts[-1]


def test_one_that_still_waits_is_told_up_to_now() -> None:
    told = answer(TWICE[0])
    told.state = v1.GENERATION_STATE_QUEUED
    lines = [line.plain for line in waterfall(of_answer(told, ID), 100)]
    assert "queued for 100.000 s" in lines[0]
    assert lines[2].startswith("queued")


def test_encoding_is_parted_from_uploading_where_its_agent_told() -> None:
    told = [
        moment(1_000.0, pb.MOMENT_KIND_QUEUED, attempt=1),
        moment(1_001.0, pb.MOMENT_KIND_RUNNING, attempt=1, device_id="d0"),
        moment(1_002.0, pb.MOMENT_KIND_PHASE, attempt=1, phase=v1.PHASE_UPLOADING),
    ]
    [attempt] = build(told, ID, 1_004.0).attempts
    assert [span.name for span in attempt.phases(1_004.0)] == ["encode, upload"]
    told.append(moment(1_003.0, pb.MOMENT_KIND_PUBLISHING, encode_seconds=0.25))
    [attempt] = build(told, ID, 1_004.0).attempts
    found = [(span.name, round(span.seconds, 3)) for span in attempt.phases(1_004.0)]
    assert found == [("encode", 0.25), ("upload", 0.75), ("publish", 1.0)]


def test_what_the_scheduler_forgot_comes_from_the_store() -> None:
    story = [
        moment(1_000.0, pb.MOMENT_KIND_QUEUED, attempt=1),
        moment(1_001.0, pb.MOMENT_KIND_RUNNING, attempt=1, device_id="d0"),
        moment(1_002.0, pb.MOMENT_KIND_ENDED, attempt=1),
    ]
    lines = [line.plain for line in waterfall(of_answer(answer(story=story), ID), 100)]
    assert "succeeded after 2.000 s" in lines[0]
    assert any(line.startswith("attempt 1 on d0") for line in lines)
    assert "nothing is remembered" in lines[-1]


def test_phases_that_are_remembered_are_told_between_what_the_store_kept() -> None:
    story = [
        moment(1_000.0, pb.MOMENT_KIND_QUEUED, attempt=1),
        moment(1_001.0, pb.MOMENT_KIND_RUNNING, attempt=1, device_id="d0"),
    ]
    adopted = [
        moment(1_001.6, pb.MOMENT_KIND_RUNNING, attempt=1, device_id="d0"),
        moment(1_001.7, pb.MOMENT_KIND_PHASE, attempt=1, phase=v1.PHASE_DENOISING),
    ]
    kinds = [one.kind for one in merged(adopted, story)]
    assert kinds == [pb.MOMENT_KIND_QUEUED, pb.MOMENT_KIND_RUNNING, pb.MOMENT_KIND_PHASE]
