"""The loop under random arrivals, cancels, preemptions and failing calls, on two devices.

Whatever happens, no row is lost, mixed up with another's, or advanced twice: who comes through has
the latents that it would have alone, bit for bit, and every step of it was told once, in order.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.step_loop import StepLoop
from tests.support.lives import Life, alone, check, lives
from tests.unit.agent.fakes import FakeTriton, Ticks, unavailable

# At which call of all, what happens, and to whom.
events = st.lists(
    st.tuples(
        st.integers(0, 40), st.sampled_from(["cancel", "preempt", "fail"]), st.integers(0, 7)
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(lives, min_size=1, max_size=8), events)
def test_no_row_is_lost_mixed_up_or_advanced_twice(
    script: list[Life], happenings: list[tuple[int, str, int]]
) -> None:
    loop = asyncio.new_event_loop()  # the session's is for tests that await
    try:
        loop.run_until_complete(asyncio.wait_for(_live(script, happenings), 60))
    finally:
        loop.close()


async def _live(script: list[Life], happenings: list[tuple[int, str, int]]) -> None:
    calls = 0
    cancelled: set[int] = set()

    def happens(verb: str, _what: Any) -> Exception | None:
        nonlocal calls
        if verb != "step":
            return None
        now = [event for event in happenings if event[0] == calls]
        calls += 1
        for _, kind, who in now:
            life = script[who % len(script)]
            if kind == "cancel" and life.work and not life.ended:
                life.work.cancel()
                cancelled.add(who % len(script))
            elif kind == "preempt" and life.work:
                life.work.preempt()
        return unavailable() if any(kind == "fail" for _, kind, _ in now) else None

    tritons = [FakeTriton(), FakeTriton()]
    for triton in tritons:
        triton.fail = happens
    loops = [StepLoop(triton, Ticks()) for triton in tritons]
    running = [asyncio.create_task(each.run()) for each in loops]
    try:
        await asyncio.gather(*(life.live(loops) for life in script))
        for _ in range(5):
            await asyncio.sleep(0)
        assert all(not each._groups for each in loops), "a member was left behind"
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    check(script, cancelled, [await alone(life) for life in script])
