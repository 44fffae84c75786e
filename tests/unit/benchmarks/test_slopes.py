"""What grows is told from what only wavers."""

from __future__ import annotations

import os
from random import Random

import pytest

from benchmarks.slopes import WINDOWS, slope, windows
from benchmarks.soak_looks import of_process


def wavering(growth: float, rng: Random, count: int = 300) -> list[tuple[float, float]]:
    """A sample every two seconds, each near the one before."""
    level, found = 0.0, []
    for number in range(count):
        level = 0.9 * level + rng.gauss(0, 1)
        found.append((2.0 * number, 100 + growth * 2.0 * number + level))
    return found


def test_a_line_is_known_to_the_last_digit() -> None:
    found = slope([(float(at), 5 + 0.25 * at) for at in range(100)])
    assert (found.value, found.margin) == pytest.approx((0.25, 0.0), abs=1e-9)


def test_what_only_wavers_seldom_seems_to_grow() -> None:
    rng = Random(1)
    runs = [slope(wavering(0.0, rng)) for _ in range(300)]
    wrong = sum(not one.low <= 0 <= one.high for one in runs)
    assert wrong <= 12  # 3 of 300 by the interval's word, were the windows quite independent


def test_what_grows_is_found() -> None:
    rng = Random(2)
    assert all(slope(wavering(0.02, rng)).low > 0 for _ in range(100))


def test_too_few_samples_are_no_answer() -> None:
    with pytest.raises(ValueError, match="sample longer"):
        windows([(float(at), 1.0) for at in range(WINDOWS - 1)])


def test_of_a_process_all_is_counted() -> None:
    found = of_process(os.getpid())
    assert 0 < found["private"] < found["resident"]
    before = found["descriptors"]
    read, write = os.pipe()
    assert of_process(os.getpid())["descriptors"] == before + 2
    os.close(read)
    os.close(write)
