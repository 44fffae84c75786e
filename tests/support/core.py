"""A core with small models, and an agent's answers by hand."""

from __future__ import annotations

import math

from scheduler.model import Model, Shape
from scheduler.runqueue import Late, Ticket
from scheduler.sched import RESERVE, Sched
from scheduler.trace import decision_line

SHAPE = Shape(step_a=0.0, step_c=1.0, decode=0.0, activation=10.0, batch_cap=4)


def model(name: str, weights: float = 100.0, load: float = 2.0, gang: int = 1) -> Model:
    return Model(name, weights, load, {"s": SHAPE}, gang)


MODELS = {name: model(name) for name in "abc"}


def ticket(
    name: str, model: str = "a", *, rows: int = 1, level: int = 1, at: float = 0.0,
    steps: int = 4, slo: float = math.inf, tenant: str = "t",
) -> Ticket:  # fmt: skip
    return Ticket(name, tenant, model, "s", rows, steps, level, at, slo=slo)


def capacity(usable: float) -> float:
    """The declared memory of which so much may be used."""
    return usable / (1 - RESERVE)


class Core:
    """A Sched whose decisions come out as lines; boundaries are asked for at once."""

    def __init__(
        self, *, devices: int = 1, usable: float = 150.0, resident: str = "",
        late: Late = Late.CASCADE, preemption: bool = True, models: dict[str, Model] = MODELS,
    ) -> None:  # fmt: skip
        self.sched = Sched(models, late=late, preemption=preemption)
        self.lines: list[str] = []
        for i in range(devices):
            self.up(f"d{i}", usable, resident)

    def up(self, name: str, usable: float, resident: str = "", now: float = 0.0) -> None:
        self.sched.device_up(name, "n", capacity(usable), now, resident=tuple(resident))

    def submit(self, t: Ticket, now: float = 0.0) -> list[str]:
        return self.follow(self.sched.submit(t, now), now)

    def boundary(self, device: str = "d0", now: float = 0.0) -> list[str]:
        return self.follow(self.sched.boundary(device, now), now)

    def finish(self, name: str, now: float = 0.0) -> list[str]:
        """The ticket of that name is done; its device looks up."""
        for device in self.sched.devices.values():
            if name in device.running:
                self.sched.finished(device.running[name])
                return self.boundary(device.id, now)
        raise AssertionError(f"{name} runs nowhere")

    def follow(self, decisions: list, now: float) -> list[str]:  # type: ignore[type-arg]
        """Decisions as lines; what asks for a boundary gets it."""
        lines = []
        for decision in decisions:
            line = decision_line(decision)
            if line.startswith("ask "):
                lines += self.boundary(decision.device_id, now)
            else:
                lines.append(line)
        return lines
