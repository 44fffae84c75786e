"""The order of a run: each fault once a turn, as many frozen as killed wherever it ends."""

from __future__ import annotations

from random import Random

import pytest

from tests.faults.nemesis import ALL, SHORT, schedule
from tests.faults.points import ENDS, PAIRS, STOPS


@pytest.mark.parametrize("seed", range(20))
def test_it_freezes_as_often_as_it_kills(seed: int) -> None:
    order = schedule(Random(seed), ALL)
    assert sorted(f.name for f in order) == sorted({f.name for f in ALL})
    more = 0
    for fault in order:
        more += fault.kind in ("kill", "failpoint exit")
        more -= fault.kind in ("freeze", "failpoint stop")
        assert abs(more) <= 1


def test_a_seed_draws_the_same_again() -> None:
    assert schedule(Random(3), SHORT) == schedule(Random(3), SHORT) != schedule(Random(4), SHORT)


def test_each_failpoint_is_driven_with_each_action() -> None:
    assert len(PAIRS) == len(ENDS) + len(STOPS) + 1
