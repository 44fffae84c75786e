"""What a model's checker does not pass is withheld, and nothing is published without its word."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.safety import looks, withheld
from atelier.catalog import Catalog, Safety
from atelier.errors import ExecutionError
from tests.support.cards import toy_card
from tests.unit.agent.conftest import Inside
from tests.unit.agent.fakes import FakeTriton

TOY = toy_card()
CARD = replace(TOY, components=replace(TOY.components, safety=Safety("guard", threshold=0.5)))


class Looking(FakeTriton):
    """Keeps what it was given to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Any] = []

    async def check(self, card: Any, pictures: Any) -> Any:
        self.given.append(pictures)
        return await super().check(card, pictures)


def pictures(*reds: int) -> np.ndarray:  # type: ignore[type-arg]
    made = np.zeros((len(reds), 8, 8, 3), np.uint8)
    made[..., 0] = np.array(reds)[:, None, None]
    return made


async def test_pictures_above_the_threshold_are_withheld_whatever_call_they_came_in() -> None:
    triton = Looking()
    images = pictures(*itertools.islice(itertools.cycle((255, 0, 127, 129)), 38))
    found = await withheld(triton, CARD, images)
    assert found == {i for i in range(38) if i % 4 in (0, 3)}
    assert [len(given) for given in triton.given] == [16, 16, 6]  # the card's max_rows
    np.testing.assert_array_equal(np.concatenate(triton.given), images)


async def test_one_unsafe_frame_withholds_the_whole_clip() -> None:
    triton = Looking()
    clip = pictures(*[0] * 20, 255)[np.newaxis]
    assert await withheld(triton, CARD, clip) == {0}
    assert await withheld(triton, CARD, clip[:, :20]) == frozenset()
    assert triton.given[0].shape == (7, 8, 8, 3)


@pytest.mark.parametrize(
    ("frames", "seen"),
    [(1, [0]), (2, [0, 1]), (8, [0, 4, 7]), (10, [0, 4, 5, 8, 9]), (13, [0, 4, 6, 8, 12])],
)
def test_first_middle_and_last_frames_are_always_looked_at(frames: int, seen: list[int]) -> None:
    assert looks(frames) == seen


async def test_a_model_without_a_checker_is_asked_nothing() -> None:
    triton = Looking()
    assert await withheld(triton, TOY, pictures(255)) == frozenset()
    assert not triton.given


@pytest.fixture
def guarded(inside: Inside) -> Inside:
    inside.device._catalog = Catalog({"toy": CARD})
    inside.triton.loaded.add("guard")
    return inside


async def test_what_is_withheld_is_made_and_told_and_never_stored(
    guarded: Inside, run_message: Any
) -> None:
    async def check(_card: Any, made: Any) -> Any:
        return np.array([0.9, 0.1, 0.51][: len(made)], np.float32)

    guarded.triton.check = check  # type: ignore[method-assign]
    guarded.commands.obey(run_message(count=3))
    done = await guarded.until("succeeded")
    assert [result.withheld for result in done.results] == [True, False, True]
    assert list(guarded.store.objects) == [done.results[1].object_key]
    guarded.commands.obey(run_message(count=1))
    done = await guarded.until("succeeded")  # a generation all of which is withheld succeeds
    assert [(r.withheld, r.object_key) for r in done.results] == [(True, "")]
    assert len(guarded.store.objects) == 1


async def test_without_the_checker_s_word_nothing_is_published(
    guarded: Inside, run_message: Any
) -> None:
    away = ExecutionError("the device does not answer", retryable=True, reason="EXECUTION_FAILED")
    guarded.triton.fail = lambda verb, _what: away if verb == "check" else None
    guarded.commands.obey(run_message())
    failed = await guarded.until("failed")
    assert failed.retryable and not guarded.store.objects
    assert not [m for m in guarded.heard if m.WhichOneof("message") == "succeeded"]
