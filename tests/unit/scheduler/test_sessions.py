"""What sittings promise: learned from how soon tenants come again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scheduler.sessions import AGES, Sessions


def taught(gap: float, times: int = 50) -> Sessions:
    """Somebody who comes again after so many seconds, each time."""
    sessions = Sessions()
    for i in range(times):
        sessions.arrived("t", "a", 1, 2.0, i * gap)
    return sessions


def test_a_fresh_request_promises_more_than_a_stale_one() -> None:
    sessions = taught(7.0)
    end = 49 * 7.0
    fresh = sessions.rate("a", 1, 5.0)  # by then it has the age at which they come again
    sessions.age(end + 100.0)
    assert fresh > 10 * sessions.rate("a", 1, 5.0)
    sessions.age(end + AGES[-1])
    assert sessions.rate("a", 1, 5.0) == 0.0
    assert not sessions._sessions


def test_a_load_that_ends_after_the_sitting_gains_nothing_from_it() -> None:
    sessions = taught(7.0)
    assert sessions.rate("a", 1, 5.0) > 10 * sessions.rate("a", 1, 60.0)
    assert sessions.rate("a", 1, 2 * AGES[-1]) == 0.0


def test_what_is_learned_from_one_model_holds_for_all() -> None:
    sessions = taught(7.0)
    sessions.arrived("u", "b", 1, 2.0, 1_000.0)
    assert sessions.rate("b", 1, 5.0) > 0.1


def test_pictures_of_one_request_come_together_each_to_its_rank() -> None:
    sessions = Sessions()
    for rank, gain in ((1, 2.0), (1, 2.0), (2, 4.0)):
        sessions.arrived("t", "a", rank, gain, 0.0)
    assert sessions.rate("a", 1, 0.0) == sessions.rate("a", 2, 0.0) > 0.0
    assert sum(sessions._returned) < 0.1  # none of them came again
    assert sessions.rate("b", 1, 0.0) == 0.0


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 400.0), st.sampled_from("tu"), st.sampled_from("ab"), st.integers(1, 3)
        ),
        max_size=60,
    )
)
def test_the_sums_are_those_of_the_sessions(events: list[tuple[float, str, str, int]]) -> None:
    sessions, now = Sessions(), 0.0
    for gap, tenant, model, rank in events:
        now += gap
        sessions.arrived(tenant, model, rank, 1.0, now)
    for model in "ab":
        for age, row in enumerate(sessions._gains[model]):
            there = [s for s in sessions._sessions.values() if (s.model, s.age) == (model, age)]
            for rank in (1, 2, 3):
                expected = sum(s.gains.get(rank, 0.0) for s in there)
                assert abs(row.get(rank, 0.0) - expected) < 1e-6
                assert all(AGES[age] <= now - s.began < AGES[age + 1] for s in there)
