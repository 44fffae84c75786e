"""The core under any order of events: nothing lost, nothing run twice, memory within its budget."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.decisions import Bind, Boundary, Decision, Hold, Load, Preempt, Unload
from scheduler.model import Model
from scheduler.runqueue import Late, Ticket
from scheduler.sched import Sched
from scheduler.standing import OrderRefusedError
from scheduler.trace import check_integrity
from tests.support.core import capacity, model, ticket

MODELS = {
    "a": replace(model("a", 40.0), shared={"vae": 15.0}),
    "b": replace(model("b", 60.0), shared={"vae": 15.0}, load_host=0.5),
    "c": replace(model("c", 90.0), load_host=0.5),
    "g": model("g", 30.0, gang=2),
}
HOST = 120.0
DEVICES = {"d0": 100.0, "d1": 130.0, "d2": 210.0}


class Core(RuleBasedStateMachine):
    late = Late.CASCADE
    preemption = True

    def __init__(self) -> None:
        super().__init__()
        self.core = Sched(dict(MODELS), late=self.late, preemption=self.preemption)
        self.core.host_up("n", HOST)
        self.now = 0.0
        self.made = 0
        self.tickets: dict[str, Ticket] = {}  # unfinished
        self.running: dict[str, str] = {}  # ticket -> device, as the agents see it
        self.unloads: list[tuple[str, str]] = []
        for device in DEVICES:
            self.up(device)

    def up(self, device: str) -> None:
        self.follow(self.core.device_up(device, "n", capacity(DEVICES[device]), self.now))

    def follow(self, decisions: list[Decision]) -> None:
        """Do what the core says, as the loops would: in order."""
        pending = list(decisions)
        while pending:
            decision = pending.pop(0)
            match decision:
                case Bind(t, device):
                    assert t.id not in self.running, "run twice at once"
                    self.running[t.id] = device
                case Preempt(t, device):
                    assert self.running.pop(t.id) == device
                case Boundary(device):
                    pending += self.core.boundary(device, self.now)
                case Load(name, device, evicted):
                    assert self.core.devices[device].loading == name
                    self.none_in_use(device, evicted)
                case Unload(name, device):
                    self.none_in_use(device, (name,))
                    self.unloads.append((device, name))
                case Hold(_, held, _):
                    assert sum(MODELS[m].own for m in held) <= HOST, "too much in host memory"
                case _:
                    del self.tickets[decision.ticket.id]

    def none_in_use(self, device: str, names: tuple[str, ...]) -> None:
        used = {t.model for t in self.core.devices[device].running.values()}
        assert not used & set(names), "a model in use is unloaded"
        assert not self.core.devices[device].pinned & set(names), "a pinned model is unloaded"

    @rule(
        name=st.sampled_from("abcg"), rows=st.integers(1, 4), level=st.integers(0, 2),
        steps=st.integers(1, 6), tenant=st.sampled_from("xy"),
    )  # fmt: skip
    def submit(self, name: str, rows: int, level: int, steps: int, tenant: str) -> None:
        self.made += 1
        t = ticket(f"{self.made:06}", name, rows=rows, level=level, steps=steps, tenant=tenant,
                   at=self.now)  # fmt: skip
        self.tickets[t.id] = t
        self.follow(self.core.submit(t, self.now))

    @rule(seconds=st.floats(0.1, 40.0))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.follow(self.core.tick(self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), steps=st.integers(1, 6))
    def step(self, data: st.DataObject, steps: int) -> None:
        """A batch comes further, maybe to the end of some."""
        device = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        for t in list(self.core.devices[device].running.values()):
            t.steps_left = max(0, t.steps_left - steps)
            if not t.steps_left:
                self.end(t)
        self.follow(self.core.boundary(device, self.now))

    def end(self, t: Ticket) -> None:
        self.core.finished(t)
        del self.running[t.id], self.tickets[t.id]

    @rule(device=st.sampled_from(sorted(DEVICES)), works=st.booleans())
    def loader_ends(self, device: str, works: bool) -> None:
        name = self.core.devices[device].loading
        if name and works:
            self.follow(self.core.loaded(device, name, self.now))
        elif name:
            for t in self.core.load_failed(device, name, self.now):
                del self.tickets[t.id]
        unloads, self.unloads = self.unloads, []
        for where, what in unloads:
            if works:
                self.follow(self.core.unloaded(where, what, self.now))
            else:
                self.core.unload_refused(where, what, self.now)

    @rule(device=st.sampled_from(sorted(DEVICES)))
    def device_dies_and_comes_back(self, device: str) -> None:
        lost = self.core.device_down(device)
        self.unloads = [u for u in self.unloads if u[0] != device]
        for t in lost:
            self.running.pop(t.id, None)
        self.up(device)
        for t in lost:
            t.steps_left = t.steps
            self.follow(self.core.again(t, self.now))

    @rule(device=st.sampled_from(sorted(DEVICES)), reason=st.sampled_from(["", "sick"]))
    def quarantine(self, device: str, reason: str) -> None:
        self.follow(self.core.quarantine(device, reason))

    @rule(device=st.sampled_from(sorted(DEVICES)), drained=st.booleans())
    def drain(self, device: str, drained: bool) -> None:
        if drained:
            self.follow(self.core.drain(device, "maintenance"))
        else:
            self.follow(self.core.undrain(device))

    @rule(
        what=st.sampled_from(["order_load", "order_unload", "pin", "unpin"]),
        name=st.sampled_from("abcg"), device=st.sampled_from(sorted(DEVICES)),
    )  # fmt: skip
    def order(self, what: str, name: str, device: str) -> None:
        if what == "unpin":
            self.core.unpin(name, device)
            return
        try:
            self.follow(getattr(self.core, what)(name, device, self.now))
        except OrderRefusedError as error:
            assert error.reason.isupper()
            assert error.message

    @rule(name=st.sampled_from("abc"), factor=st.floats(0.9, 1.3))
    def measure(self, name: str, factor: float) -> None:
        """A model turns out larger or smaller than its card said."""
        was: Model = MODELS[name]
        self.core.correct(replace(was, weights=was.weights * factor))

    @rule(name=st.sampled_from("bc"))
    def warmed(self, name: str) -> None:
        if self.core.books.hosts["n"].warming == name:
            self.core.warmed("n", name)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.tickets)))
        if self.core.remove(name):
            assert name not in self.running
            del self.tickets[name]

    @invariant()
    def sound(self) -> None:
        check_integrity(self.core)
        queued = {t.id for queue in self.core.queues for t in queue}
        parked = {t.id for t, _ in self.core.gangs.reserved.values()} - set(self.running)
        assert queued | parked | set(self.running) == set(self.tickets), "lost or invented"
        assert set(self.running) == set(self.core.books.bound)

    def teardown(self) -> None:
        """From any state, with healthy devices and working loads, everything gets done."""
        for model_ in MODELS.values():
            self.core.correct(model_)
        for device in DEVICES:
            self.quarantine(device, "")
            self.drain(device, False)
            for name in MODELS:
                self.core.unpin(name, device)
        for _ in range(60 * (len(self.tickets) + 1)):
            if not self.tickets:
                return
            self.tick(20.0)
            for device in DEVICES:
                self.loader_ends(device, True)
                for t in list(self.core.devices[device].running.values()):
                    t.steps_left = 0
                    self.end(t)
                self.follow(self.core.boundary(device, self.now))
        raise AssertionError(f"never served: {sorted(self.tickets)}")


class Patient(Core):
    preemption = False


class Strict(Core):
    late = Late.REJECT


class Doomed(Core):
    late = Late.DOOM


TestCore = Core.TestCase
TestPatient = Patient.TestCase
TestStrict = Strict.TestCase
TestDoomed = Doomed.TestCase
for case in (TestCore, TestPatient, TestStrict, TestDoomed):
    case.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
