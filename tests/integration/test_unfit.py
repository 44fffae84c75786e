"""What a gateway of another version, or one at fault, may submit: the leader must live, and nothing
must be stored that would end the next one when it takes up what there is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from atelier.errors import InvalidArgumentError, NotFoundError
from tests.support.generations import generation
from tests.support.house import house_over


async def test_what_nobody_here_can_make_is_refused_and_the_others_are_taken(dsn: str) -> None:
    async with house_over(dsn) as house:
        good, unknown, last = (generation() for _ in range(3))
        answers = await house.intake.submit_all([good, replace(unknown, model="later"), last])
        assert isinstance(answers[1], NotFoundError) and answers[1].reason == "NO_MODEL"
        assert [getattr(one, "id", "") for one in answers] == [good.id, "", last.id]
        assert await house.store.look(unknown.id) is None
        with pytest.raises(NotFoundError):
            await house.intake.submit(replace(unknown, model=""))
        for change in ({"steps": 0}, {"count": 0}, {"count": -1}, {"strength": math.nan}):
            empty = replace(unknown, model="toy", spec=replace(unknown.spec, **change))
            with pytest.raises(InvalidArgumentError, match="one step at least"):
                await house.intake.submit(empty)
            assert await house.store.look(empty.id) is None
