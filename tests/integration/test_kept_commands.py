"""`atelier presets`, `list` and `delete` as a person calls them."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from atelier.cli import listing, presets
from atelier.cli.problems import ProblemError
from atelier.cli.where import Gateway
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import preset_pb2
from tests.support.door import Door, door
from tests.support.processes import Process, scheduler_process


@pytest.fixture
def scheduler(dsn: str, tmp_path: Path) -> Iterator[Process]:
    with scheduler_process(dsn, tmp_path) as process:
        yield process


@pytest.fixture
async def house(scheduler: Process) -> AsyncIterator[Door]:
    async with door(scheduler.address) as caller:
        yield caller


def paper() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=240), text


async def test_presets_are_set_again_shown_and_deleted(house: Door) -> None:
    console, text = paper()
    for words in (["steps=8"], ["steps=9", "output.format=webp"]):
        wanted = preset_pb2.Preset(model="toy", name="ink", description="for drafts")
        await presets.write(Gateway(house.address), wanted, words, console)
    assert "version 2" in text.getvalue()
    await presets.show_all(Gateway(house.address), "", console)
    assert "output.format=IMAGE_FORMAT_WEBP" in text.getvalue() and "for drafts" in text.getvalue()
    old = preset_pb2.GetPresetRequest(model="toy", name="ink", version=1)
    await presets.show_one(Gateway(house.address), old, console)
    assert "  steps=8" in text.getvalue()
    with pytest.raises(ProblemError, match="steps"):
        wanted = preset_pb2.Preset(model="toy", name="ink")
        await presets.write(Gateway(house.address), wanted, ["steps=0"], console)
    gone = preset_pb2.DeletePresetRequest(model="toy", name="ink")
    await presets.erase(Gateway(house.address), gone, console)
    console, text = paper()
    await presets.show_all(Gateway(house.address), "toy", console)
    assert text.getvalue() == "none\n"


async def test_lists_are_filtered_and_what_has_not_ended_is_not_deleted(house: Door) -> None:
    made = []
    for number in range(3):
        request = pb.CreateGenerationRequest(
            model="toy", image=pb.ImageSpec(prompt="a [red] ring"), labels={"n": str(number)}
        )
        made.append((await house.generations.CreateGeneration(request)).generation.id)
    console, text = paper()
    which = listing.filter_of("toy", ["n=1"], ["queued"], "1h", datetime.now(UTC))
    await listing.show(Gateway(house.address), which, 20, console, as_json=False)
    assert made[1] in text.getvalue() and made[0] not in text.getvalue()
    assert "a [red] ring" in text.getvalue() and "n=1" in text.getvalue()
    console, text = paper()
    await listing.show(Gateway(house.address), pb.GenerationFilter(), 2, console, as_json=True)
    assert [line.count('"id"') for line in text.getvalue().splitlines()] == [1, 1]
    with pytest.raises(ProblemError, match="cancel it first"):
        await listing.erase(Gateway(house.address), [made[0]], console)
