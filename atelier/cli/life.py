"""A generation's life, put together from its moments. Pure, but for `read_life`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from atelier.v1 import fleet_pb2 as pb
from atelier.v1 import fleet_pb2_grpc, generation_pb2

CALL_SECONDS = 30.0
PREEMPTED = "PREEMPTED"
BOTH = "encode, upload"  # until its agent tells how much of it was which
PHASES = {
    generation_pb2.PHASE_ENCODING_TEXT: "text",
    generation_pb2.PHASE_DENOISING: "denoise",
    generation_pb2.PHASE_DECODING: "decode",
    generation_pb2.PHASE_UPLOADING: BOTH,
}


@dataclass(frozen=True)
class Span:
    """Something that took time, in seconds since 1970."""

    name: str
    start: float
    end: float
    failed: bool = False

    @property
    def seconds(self) -> float:
        return max(0.0, self.end - self.start)


@dataclass
class Attempt:
    """A wait, and what followed it. Times are seconds since 1970; None: that did not come (yet)."""

    number: int
    queued: float | None = None
    bound: float | None = None
    why: str = ""  # it was bound to that device
    device: str = ""
    began: float | None = None
    marks: list[tuple[str, float]] = field(default_factory=list)  # phases as they began
    asked_off: float | None = None  # it is preempted
    ended: float | None = None
    left_by: str = ""  # why it ended without its results

    def phases(self, now: float) -> list[Span]:
        """Each until the next."""
        until = self.ended if self.ended is not None else now
        marks = [*self.marks, ("", until)]
        return [Span(name, start, end) for (name, start), (_, end) in pairwise(marks)]


@dataclass
class Life:
    """From the first wait to the end; `now`: what is not over is told up to then."""

    id: str
    now: float
    model: str = ""
    steps: int = 0
    count: int = 0
    state: int = generation_pb2.GENERATION_STATE_UNSPECIFIED
    attempts: list[Attempt] = field(default_factory=list)
    loads: list[tuple[str, Span]] = field(default_factory=list)  # by device, of its model
    ended: float | None = None

    @property
    def end(self) -> float:
        return self.now if self.ended is None else self.ended

    @property
    def start(self) -> float:
        first = self.attempts[0] if self.attempts else None
        known = (first.queued if first.queued is not None else first.began) if first else None
        return self.end if known is None else known


def build(moments: Iterable[pb.Moment], generation_id: str, now: float) -> Life:
    """Of one generation's moments, and of loads of its model. What cannot be is left out."""
    life = Life(generation_id, now)
    for moment in sorted(moments, key=seconds):
        if moment.generation_id == generation_id:
            _add(life, moment)
    life.loads = [
        (device, span)
        for device, model, span in loads(moments, now)
        if model == life.model and any(a.device == device for a in life.attempts)
    ]
    return life


def _add(life: Life, moment: pb.Moment) -> None:
    at, last = seconds(moment), life.attempts[-1] if life.attempts else None
    life.model = moment.model or life.model
    life.steps, life.count = moment.total_steps or life.steps, moment.count or life.count
    match moment.kind:
        case pb.MOMENT_KIND_QUEUED:
            if last and last.ended is None and last.began is None:
                return  # it waits on
            if last and last.ended is None:
                last.ended, last.left_by = at, moment.reason
            life.attempts.append(Attempt(moment.attempt, at))
        case pb.MOMENT_KIND_BOUND if last and last.began is None:
            last.bound, last.why, last.device = at, moment.reason, moment.device_id
        case pb.MOMENT_KIND_RUNNING:
            if last is None or last.number != moment.attempt:
                last = Attempt(moment.attempt)
                life.attempts.append(last)
            last.began, last.device = at, moment.device_id
        case pb.MOMENT_KIND_PHASE if last and last.number == moment.attempt:
            name = PHASES.get(moment.phase, "")
            if name and (not last.marks or last.marks[-1][0] != name):
                last.marks.append((name, at))
        case pb.MOMENT_KIND_PUBLISHING if last and last.began is not None:
            last.marks = [*_parted(last.marks, moment.encode_seconds, at), ("publish", at)]
        case pb.MOMENT_KIND_PREEMPTING if last and last.began is not None:
            last.asked_off = at
        case pb.MOMENT_KIND_ENDED:
            life.ended, life.state = at, moment.state
            if last:
                last.ended, last.left_by = at, moment.reason
        case _:
            pass


def _parted(
    marks: list[tuple[str, float]], encode_seconds: float, until: float
) -> list[tuple[str, float]]:
    """With encoding and uploading one after the other, if it is known how long encoding took."""
    if not encode_seconds or not marks or marks[-1][0] != BOTH:
        return marks
    began = marks[-1][1]
    return [*marks[:-1], ("encode", began), ("upload", min(began + encode_seconds, until))]


def loads(moments: Iterable[pb.Moment], now: float) -> list[tuple[str, str, Span]]:
    """Device, model and time of each load; of one whose begin is not known, nothing."""
    open_: dict[tuple[str, str], float] = {}
    found = []
    for moment in moments:
        key = moment.device_id, moment.model
        if moment.kind == pb.MOMENT_KIND_LOADING:
            open_[key] = seconds(moment)
        elif moment.kind == pb.MOMENT_KIND_LOADED and key in open_:
            name = f"load failed: {moment.reason}" if moment.failed else "load"
            found.append((*key, Span(name, open_.pop(key), seconds(moment), moment.failed)))
    return found + [(*key, Span("load", start, now)) for key, start in open_.items()]


async def read_life(service: fleet_pb2_grpc.FleetServiceStub, generation_id: str) -> Life:
    """Ask the scheduler for it.

    Raises:
        grpc.aio.AioRpcError: NOT_FOUND, or nobody answers.
    """
    request = pb.TraceGenerationRequest(id=generation_id)
    answer = await service.TraceGeneration(request, timeout=CALL_SECONDS)
    return of_answer(answer, generation_id)


def of_answer(answer: pb.TraceGenerationResponse, generation_id: str) -> Life:
    """What the scheduler remembers where that is all; else what the store has kept, with what is
    remembered of phases between."""
    life = build(merged(answer.moments, answer.story), generation_id, stamp(answer))
    life.model, life.state = answer.model, answer.state
    return life


def merged(remembered: Sequence[pb.Moment], story: Sequence[pb.Moment]) -> list[pb.Moment]:
    """The two clocks are mixed only where they must be."""
    own = [moment for moment in remembered if moment.generation_id]
    first = own[0] if own else None
    if first and first.kind == pb.MOMENT_KIND_QUEUED and first.attempt == 1:
        return list(remembered)
    kept = (pb.MOMENT_KIND_QUEUED, pb.MOMENT_KIND_RUNNING, pb.MOMENT_KIND_ENDED)
    return sorted([*story, *(m for m in remembered if m.kind not in kept)], key=seconds)


def seconds(moment: pb.Moment) -> float:
    """When it was, since 1970."""
    return moment.time.seconds + moment.time.nanos / 1e9


def stamp(answer: pb.TraceGenerationResponse | pb.ListMomentsResponse) -> float:
    """The scheduler's clock as it answered."""
    return answer.time.seconds + answer.time.nanos / 1e9
