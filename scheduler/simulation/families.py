"""Made scenarios: families of fleets, models and arrivals, each the same for the same seed.

Models' sizes, shapes, step counts and classes are typical of diffusion on 80 GB devices (speed 1)
and 48 GB ones (speed 0.7). Popularity is Zipf's over shuffled models; arrivals are Poisson's, at
the rate that offers `rho` seconds of work (alone) for each second of the fleet's.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from scheduler.model import Model, Shape
from scheduler.runqueue import Ticket, objective
from scheduler.simulation.scenario import GB
from scheduler.simulation.world import Gpu, Scenario

WARMUP = 0.2  # of the horizon
TENANTS = 8
NODE = 8  # devices
SHIFT_SECONDS = 300.0  # diurnal: how often popularity moves on
MTBF_SECONDS, MTTR_SECONDS = 900.0, (60.0, 180.0)
BURST, CALM, PEAK = 15.0, 60.0, 4.0  # seconds, seconds, times the calm rate
FLOOD = 0.3, 0.8  # of the horizon


@dataclass(frozen=True)
class Kind:
    """A family of models."""

    weights_gb: tuple[float, float]
    load_s: tuple[float, float]
    shapes: dict[str, Shape]
    steps: dict[int, float]  # -> share of requests
    classes: tuple[float, float, float]  # shares of class 0, 1, 2
    gang: int = 1


IMAGE_CLASSES = (0.2, 0.5, 0.3)
IMAGE_STEPS = {4: 0.25, 8: 0.15, 20: 0.2, 30: 0.25, 40: 0.1, 50: 0.05}
VIDEO_STEPS = {30: 0.5, 50: 0.4, 100: 0.1}
GANG_STEPS = {30: 0.57, 50: 0.43}
KINDS = {
    "sd15": Kind(
        (2.0, 5.0), (2.0, 6.0),
        {"512": Shape(0.00514, 0.00686, 0.025, 0.8 * GB, 16, 0.13),
         "768": Shape(0.006, 0.018, 0.06, 1.6 * GB, 16, 0.3)},
        {4: 0.25, 8: 0.15, 20: 0.2, 25: 0.15, 30: 0.15, 50: 0.1}, IMAGE_CLASSES,
    ),
    "sdxl": Kind(
        (7.0, 10.0), (4.0, 12.0), {"1024": Shape(0.01, 0.042, 0.12, 3 * GB, 8, 0.5)},
        IMAGE_STEPS, IMAGE_CLASSES,
    ),
    "flux": Kind(
        (24.0, 34.0), (12.0, 30.0), {"1024": Shape(0.012, 0.18, 0.12, 4 * GB, 4, 0.5)},
        {4: 0.35, 20: 0.25, 28: 0.3, 50: 0.1}, IMAGE_CLASSES,
    ),
    "video": Kind(
        (20.0, 30.0), (15.0, 25.0),
        {"480p": Shape(0.02, 0.38, 2.5, 10 * GB, 2, 3.0),
         "720p": Shape(0.03, 1.1, 4.0, 14 * GB, 2, 5.0)},
        VIDEO_STEPS, (0.7, 0.3, 0.0),
    ),
    "gang2": Kind(
        (40.0, 44.0), (20.0, 25.0), {"720p": Shape(0.02, 0.58, 2.0, 10 * GB, 1, 5.0)},
        GANG_STEPS, (0.5, 0.5, 0.0), gang=2,
    ),
    "gang4": Kind(
        (76.0, 80.0), (20.0, 25.0), {"720p": Shape(0.03, 0.47, 2.0, 12 * GB, 1, 5.0)},
        GANG_STEPS, (0.5, 0.5, 0.0), gang=4,
    ),
}  # fmt: skip

Rate = Callable[[float], float]  # seconds -> times the mean rate


@dataclass(frozen=True)
class Family:
    """What a scenario is drawn from. `shares`: of the work; images have the rest."""

    fleet: tuple[tuple[int, float, float, str], ...]  # (devices, GB, speed, type)
    models: tuple[tuple[str, int], ...]
    horizon: float
    skew: float = 1.0  # Zipf's exponent
    shares: tuple[tuple[str, float], ...] = ()
    interactive: bool = False  # images are of higher classes


A80, A48, A24 = (80.0, 1.0, "A80"), (48.0, 0.7, "A48"), (24.0, 0.5, "A24")
MIX40 = (("sd15", 18), ("sdxl", 16), ("flux", 6))
MIX100 = (("sd15", 45), ("sdxl", 40), ("flux", 15))
ZIPF40 = Family(((16, *A80),), MIX40, 1200)
FAMILIES = {
    "hot1": Family(((8, *A80),), (("sd15", 1),), 900),
    "zipf40": ZIPF40,
    "burst": ZIPF40,
    "diurnal": Family(((16, *A80),), MIX40, 1800),
    "imgvid": Family(
        ((16, *A80),), (("sd15", 6), ("sdxl", 6), ("video", 3)), 1800,
        shares=(("video", 0.5),), interactive=True,
    ),
    "flood": Family(((8, *A80),), (("sd15", 3), ("sdxl", 3)), 900),
    "gang": Family(
        ((16, *A80),), (("sdxl", 6), ("sd15", 4), ("gang2", 1), ("gang4", 1)), 1800,
        shares=(("gang2", 0.175), ("gang4", 0.175)),
    ),
    "fail": Family(((16, *A80),), MIX40, 1800),
    "thrash": Family(((8, *A48),), MIX100, 1800, skew=0.8),
    "scale100": Family(((48, *A80), (32, *A48), (20, *A24)), MIX100, 400),
    "scale1000": Family(
        ((600, *A80), (400, *A48)), (("sd15", 86), ("sdxl", 76), ("flux", 28), ("video", 10)), 150,
        shares=(("video", 0.05),),
    ),
}  # fmt: skip


def make(name: str, rho: float, seed: int, *, horizon: float | None = None) -> Scenario:
    """A scenario of a family; a shorter `horizon` (seconds) makes a smaller one.

    Raises KeyError for a name that is no family.
    """
    family, rng = FAMILIES[name], Random(f"{name} {seed}")  # noqa: S311 (to be the same again)
    span = family.horizon if horizon is None else horizon
    gpus = _fleet(family)
    drawn = [(kind, i) for kind, count in family.models for i in range(count)]
    models = {}
    kind_of = {}
    for number, (kind, _) in enumerate(drawn):
        model = _model(f"{kind}-{number}", KINDS[kind], rng)
        models[model.name], kind_of[model.name] = model, kind
    mix = _Mix(family, models, kind_of, rng)
    speed = sum(gpu.speed for gpu in gpus)
    shift = len(models) // NODE if name == "diurnal" else 0
    shape = _rate(name, span, rng)
    instants = [span * (i + 0.5) / 1000 for i in range(1000)]
    offered = sum(shape(t) * mix.work(int(t // SHIFT_SECONDS) * shift) for t in instants) / 1000
    own = rho / 2 if name == "flood" else rho
    arrivals = [
        (t, str(rng.randrange(TENANTS))) for t in _arrivals(own * speed / offered, span, shape, rng)
    ]
    if name == "flood":
        begin, end = (share * span for share in FLOOD)
        more = _arrivals(rho * speed / offered, end - begin, lambda _: 1.0, rng)
        arrivals = sorted([*arrivals, *((begin + t, "0") for t in more)])
    requests = []
    for i, (t, tenant) in enumerate(arrivals):
        one = mix.draw(rng, int(t // SHIFT_SECONDS) * shift)
        level = 1 if name == "flood" else _pick(_classes(family, one[0], kind_of), rng)
        requests.append(_ticket(i, t, tenant, level, one, models))
    return Scenario(
        name=f"{name}-{rho:g}-s{seed}",
        horizon=span,
        warmup=WARMUP * span,
        gpus=gpus,
        models=models,
        requests=tuple(requests),
        failures=_failures(gpus, span, rng) if name == "fail" else (),
        seed=seed,
        rho=rho,
    )


def _fleet(family: Family) -> tuple[Gpu, ...]:
    gpus: list[Gpu] = []
    for count, memory, speed, kind in family.fleet:
        for _ in range(count):
            i = len(gpus)
            gpus.append(Gpu(str(i), str(i // NODE), memory * GB, speed, kind))
    return tuple(gpus)


def _model(name: str, kind: Kind, rng: Random) -> Model:
    weights = round(rng.uniform(*kind.weights_gb), 1) * GB / kind.gang
    return Model(name, weights, round(rng.uniform(*kind.load_s), 1), kind.shapes, kind.gang)


class _Mix:
    """Which model, shape and steps a request asks for."""

    def __init__(
        self, family: Family, models: dict[str, Model], kind_of: dict[str, str], rng: Random
    ) -> None:
        self._kind_of, self._models = kind_of, models
        shares = dict(family.shares)
        weight: dict[str, float] = {}  # of requests
        groups = [("", 1 - sum(shares.values())), *shares.items()]
        for group, share in groups:
            names = [m for m in models if (kind_of[m] if kind_of[m] in shares else "") == group]
            rng.shuffle(names)
            zipf = {m: 1 / (i + 1) ** family.skew for i, m in enumerate(names)}
            scale = share / sum(zipf[m] * self._work(m) for m in names)
            weight |= {m: z * scale for m, z in zipf.items()}
        self._names = list(weight)
        self._sums = list(accumulate(weight.values()))

    def work(self, shift: int) -> float:
        """Device seconds of a request, on average, once popularity moved on by `shift`."""
        names, before, total = self._names, 0.0, 0.0
        for rank, upto in enumerate(self._sums):
            total += (upto - before) * self._work(names[(rank + shift) % len(names)])
            before = upto
        return total / self._sums[-1]

    def draw(self, rng: Random, shift: int) -> tuple[str, str, int]:
        rank = bisect(self._sums, rng.random() * self._sums[-1])
        name = self._names[(rank + shift) % len(self._names)]
        kind = KINDS[self._kind_of[name]]
        shape = rng.choice(sorted(kind.shapes))
        steps = list(kind.steps)[_pick(tuple(kind.steps.values()), rng)]
        return name, shape, steps

    def _work(self, name: str) -> float:
        """Device seconds of a request, on average."""
        kind, model = KINDS[self._kind_of[name]], self._models[name]
        steps = sum(s * share for s, share in kind.steps.items()) / sum(kind.steps.values())
        costs = [s.step(1) * steps + s.decode for s in model.shapes.values()]
        return model.gang * sum(costs) / len(costs)


def _ticket(
    i: int, t: float, tenant: str, level: int, one: tuple[str, str, int], models: dict[str, Model]
) -> Ticket:
    name, shape, steps = one
    slo = objective(level, models[name].shapes[shape].work(steps))
    return Ticket(f"{i:08d}", tenant, name, shape, 1, steps, level, round(t, 6), slo=round(slo, 6))


def _classes(family: Family, name: str, kind_of: dict[str, str]) -> tuple[float, float, float]:
    kind = kind_of[name]
    if family.interactive and kind in ("sd15", "sdxl"):
        return (0.1, 0.4, 0.5) if kind == "sd15" else (0.1, 0.5, 0.4)
    return KINDS[kind].classes


def _rate(name: str, horizon: float, rng: Random) -> Rate:
    if name == "diurnal":
        return lambda t: 1 + 0.6 * math.sin(2 * math.pi * t / (horizon / 2))
    if name != "burst":
        return lambda _: 1.0
    ends, t, bursting = [], 0.0, False  # of calm and bursts in turns
    while t < horizon:
        t += rng.expovariate(1 / (BURST if bursting else CALM))
        ends.append(t)
        bursting = not bursting
    return lambda t: PEAK if bisect(ends, t) % 2 else 1.0


def _arrivals(rate: float, horizon: float, shape: Rate, rng: Random) -> list[float]:
    """Poisson arrivals at `rate` times `shape`, by thinning."""
    peak = max(shape(horizon * i / 10_000) for i in range(10_001))
    found, t = [], 0.0
    while (t := t + rng.expovariate(rate * peak)) < horizon:
        if rng.random() * peak < shape(t):
            found.append(t)
    return found


def _failures(
    gpus: tuple[Gpu, ...], horizon: float, rng: Random
) -> tuple[tuple[float, str, str], ...]:
    found = []
    for gpu in gpus:
        t = rng.expovariate(1 / MTBF_SECONDS)
        while t < horizon:
            back = t + rng.uniform(*MTTR_SECONDS)
            found += [(round(t, 6), "fail", gpu.id), (round(back, 6), "recover", gpu.id)]
            t = back + rng.expovariate(1 / MTBF_SECONDS)
    return tuple(sorted(found))


def _pick(weights: Sequence[float], rng: Random) -> int:
    sums = list(accumulate(weights))
    return min(bisect(sums, rng.random() * sums[-1]), len(sums) - 1)
