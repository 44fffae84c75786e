"""A gateway that was started after the scheduler knows a model that the scheduler does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from atelier.errors import NotFoundError
from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from tests.support.generations import generation
from tests.support.house import House


async def test_what_nobody_here_can_make_is_refused_and_the_others_are_taken(dsn: str) -> None:
    migrate(dsn)
    async with GenerationStore(dsn) as store, House(store) as house:
        good, unknown, last = (generation() for _ in range(3))
        answers = await house.intake.submit_all([good, replace(unknown, model="later"), last])
        assert isinstance(answers[1], NotFoundError) and answers[1].reason == "NO_MODEL"
        assert [getattr(one, "id", "") for one in answers] == [good.id, "", last.id]
        assert await store.look(unknown.id) is None
        with pytest.raises(NotFoundError):
            await house.intake.submit(replace(unknown, model=""))
