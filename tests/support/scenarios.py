"""Small scenarios for tests of the simulator: seconds of work, not minutes."""

from scheduler.simulation.families import FAMILIES, make
from scheduler.simulation.world import Scenario

SHORT = dict.fromkeys(FAMILIES, 40.0) | {"scale100": 15.0, "scale1000": 4.0, "fail": 200.0}


def small(name: str, *, rho: float = 0.8, seed: int = 1) -> Scenario:
    return make(name, rho, seed, horizon=SHORT[name])
