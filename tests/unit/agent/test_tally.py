"""What is told of batches."""

from __future__ import annotations

from agent.tally import MOST_STEPS, REPEAT_SECONDS, Run, Since, Tally

ONE, TWO = ("toy", "64x64", 1), ("toy", "64x64", 2)


def steps(tally: Tally, composition: tuple[str, str, int], *seconds: float) -> list[Run]:
    runs = [tally.step(composition, s, 0.0) for s in seconds]
    return [run for run in runs if run]


def test_a_composition_is_told_when_another_takes_its_place() -> None:
    tally = Tally()
    assert steps(tally, ONE, 9.0, 1.0, 2.0, 4.0) == []
    tally.memory(50)
    tally.memory(70)
    tally.memory(60)
    assert steps(tally, TWO, 5.0) == [Run(ONE, 3, 2.0, 70)]  # without its first step
    tally.memory(40)
    steps(tally, TWO, 5.0, 5.0, 5.0)
    assert tally.end(0.0) == Run(TWO, 3, 5.0, 40)
    assert tally.end(0.0) is None


def test_short_runs_are_not_told() -> None:
    tally = Tally()
    steps(tally, ONE, 1.0, 1.0, 1.0)
    assert tally.end(0.0) is None


def test_the_same_is_told_seldom() -> None:
    tally, told = Tally(), []
    for second in range(20):
        for _ in range(4):
            tally.step(ONE, 1.0, float(second))
        told.append(tally.end(float(second)) is not None)
    assert [i for i, was in enumerate(told) if was] == [0, 5, 10, 15]
    assert REPEAT_SECONDS == 5.0


def test_a_batch_that_never_changes_is_told_in_between() -> None:
    tally = Tally()
    (run,) = steps(tally, ONE, *[1.0] * (MOST_STEPS + 2))
    assert run.steps == MOST_STEPS


def test_what_a_batch_held_is_known_of_the_largest_since_a_change() -> None:
    since = Since()
    since.runs("red", 10, changes=1)
    assert since.is_largest("red", 10)
    since.runs("red", 40, changes=1)
    assert since.is_largest("red", 40)
    assert not since.is_largest("red", 10)  # what the larger one took is still there
    since.runs("blue", 5, changes=1)
    assert not since.is_largest("red", 40)
    assert not since.is_largest("blue", 5)
    since.runs("blue", 5, changes=2)
    assert since.is_largest("blue", 5)
