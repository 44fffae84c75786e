"""The core under any order of events: nothing lost, nothing run twice, memory within its budget."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.runqueue import Ticket
from scheduler.sched import Bind, Load, Sched, Unload
from tests.support.cards import profile, toy_card

CARDS = {
    name: toy_card(name, resident_bytes=size, profiles=profile(activation_bytes=7, batch_cap=4))
    for name, size in {"a": 40, "b": 60, "c": 90}.items()
}
DEVICES = {"d0": 100, "d1": 130}


class Core(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Sched(CARDS)
        self.now = 0.0
        self.made = 0
        self.unfinished: set[str] = set()
        self.running: dict[str, str] = {}  # as the agents would see it
        self.given_up: set[str] = set()
        for device, capacity in DEVICES.items():
            self.core.device_up(device, "n", capacity, [], self.now)

    @rule(model=st.sampled_from("abc"), rows=st.integers(1, 5), level=st.integers(0, 2))
    def submit(self, model: str, rows: int, level: int) -> None:
        self.made += 1
        name = f"{self.made:06}"
        self.core.submit(Ticket(name, "t", model, "64x64", rows, 4, level, self.now, math.inf))
        self.unfinished.add(name)

    @rule(seconds=st.floats(0.1, 5.0))
    def schedule(self, seconds: float) -> None:
        self.now += seconds
        for decision in self.core.schedule(self.now):
            match decision:
                case Bind(ticket, device):
                    assert ticket.id not in self.running, "run twice at once"
                    self.running[ticket.id] = device
                case Load(model, device, _):
                    assert self.core.devices[device].loading == model
                case Unload(model, device):
                    used = {t.model for t in self.core.devices[device].running.values()}
                    assert model not in used, "a model in use is unloaded"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        assert self.core.drop(name) is not None
        del self.running[name]
        self.unfinished.discard(name)

    @rule(device=st.sampled_from(sorted(DEVICES)), works=st.booleans())
    def loader_ends(self, device: str, works: bool) -> None:
        p = self.core.devices[device]
        if p.loading and works:
            self.core.loaded(device, p.loading, self.now)
        elif p.loading:
            lost = self.core.load_failed(device, p.loading, self.now)
            if lost:
                self.unfinished.discard(lost.id)
        if p.unloading:
            self.core.unloaded(device, p.unloading, still_resident=not works, now=self.now)

    @rule(device=st.sampled_from(sorted(DEVICES)))
    def device_dies_and_comes_back(self, device: str) -> None:
        for ticket in self.core.device_down(device):
            del self.running[ticket.id]
            self.core.submit(ticket)
        self.core.device_up(device, "n", DEVICES[device], [], self.now)

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.unfinished)))
        removed = self.core.remove(name)
        assert removed == (name not in self.running)
        if removed:
            self.unfinished.discard(name)

    @invariant()
    def sound(self) -> None:
        self.core.check_integrity()
        nexts = {p.runnext.id for p in self.core.devices.values() if p.runnext}
        queued = {t.id for queue in self.core.queues for t in queue}
        assert queued | nexts | set(self.running) == self.unfinished, "lost or invented"

    def teardown(self) -> None:
        """From any state, with working loads, everything gets done."""
        for _ in range(20 * (len(self.unfinished) + 1)):
            self.schedule(30.0)
            for device in DEVICES:
                self.loader_ends(device, True)
            for name in list(self.running):
                self.core.drop(name)
                del self.running[name]
                self.unfinished.discard(name)
        assert not self.unfinished, f"never served: {sorted(self.unfinished)}"


TestCore = Core.TestCase
TestCore.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
