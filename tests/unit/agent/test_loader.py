"""Loads and unloads of models that share components, and what is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.gpu import Gauge
from agent.loader import Loader
from agent.messages import told_to
from agent.work import Measure
from atelier.catalog import Catalog, ModelCard
from atelier.errors import ExecutionError
from tests.support.cards import toy_card
from tests.unit.agent.fakes import FakeTriton, Ticks

SIZES = {"text": 30, "red__denoiser": 100, "blue__denoiser": 200, "vae": 7}


def card(name: str) -> ModelCard:
    """A model whose text encoder and VAE are everybody's."""
    toy = toy_card(name)
    parts = replace(
        toy.components, text_encoder="text", denoiser=f"{name}__denoiser", vae_decoder="vae"
    )
    return replace(toy, components=parts)


class Memory:
    """A driver that counts what Triton holds."""

    def __init__(self, triton: FakeTriton) -> None:
        self._triton = triton

    def used(self) -> int:
        return 1000 + sum(SIZES[name] for name in self._triton.loaded)

    def sample(self) -> Measure:
        return Measure(used_bytes=self.used())


class Silent(Memory):
    """One that does not answer."""

    def used(self) -> int:
        return 0


class Cache:
    """Which Triton models' files are in memory."""

    def __init__(self) -> None:
        self.there: set[str] = set()

    async def in_memory(self, triton_models: Sequence[str]) -> bool:
        return self.there.issuperset(triton_models)


class Bench:
    """A loader over fakes."""

    def __init__(self, driver: type[Memory] = Memory) -> None:
        self.triton, self.cache, self.used = FakeTriton(), Cache(), set[str]()
        self.loader = Loader(
            "d0",
            Catalog({name: card(name) for name in ("red", "blue")}),
            self.triton,  # type: ignore[arg-type]
            Gauge(driver(self.triton), "d0"),
            clock=Ticks(),
            in_use=lambda model: model in self.used,
            files=self.cache,
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_only_what_is_missing_is_loaded_and_measured(bench: Bench) -> None:
    first = await bench.loader.load("red")
    assert (first.measured_bytes, first.triton_models) == (137, ("text", "red__denoiser", "vae"))
    second = await bench.loader.load("blue")
    assert (second.measured_bytes, second.triton_models) == (200, ("blue__denoiser",))
    assert bench.triton.log == [f"load {name}" for name in (*first.triton_models, "blue__denoiser")]
    assert bench.loader.resident == {"red", "blue"}


async def test_only_what_nobody_else_uses_is_unloaded(bench: Bench) -> None:
    await bench.loader.load("red")
    await bench.loader.load("blue")
    first = await bench.loader.unload("red")
    assert (first.measured_bytes, first.triton_models) == (-100, ("red__denoiser",))
    assert bench.triton.loaded == {"text", "vae", "blue__denoiser"}
    second = await bench.loader.unload("blue")
    assert second.measured_bytes == -237
    assert bench.triton.loaded == set()


async def test_a_load_that_fails_takes_away_what_it_brought_and_no_more(bench: Bench) -> None:
    await bench.loader.load("red")
    broken = ExecutionError("no room", retryable=True, reason="OUT_OF_MEMORY")
    bench.triton.fail = lambda verb, what: (
        broken if (verb, what) == ("load", "blue__denoiser") else None
    )
    failed = await bench.loader.load("blue")
    assert (failed.error, failed.resident) == (broken, False)
    assert (failed.measured_bytes, failed.triton_models) == (None, ())
    assert bench.triton.loaded == {"text", "vae", "red__denoiser"}
    assert bench.loader.resident == {"red"}


async def test_what_lay_in_memory_is_told_as_such(bench: Bench) -> None:
    bench.cache.there = {"text", "vae", "blue__denoiser"}
    assert not (await bench.loader.load("red")).from_host_memory
    assert (await bench.loader.load("blue")).from_host_memory


async def test_a_look_from_before_a_load_changes_nothing(bench: Bench) -> None:
    before = bench.loader.changes
    await bench.loader.load("red")
    bench.loader.seen(frozenset(), before)
    assert bench.loader.resident == {"red"}
    async with bench.loader.lock:  # something comes or goes now
        bench.loader.seen(frozenset(), bench.loader.changes)
    assert bench.loader.resident == {"red"}
    bench.loader.seen(frozenset(), bench.loader.changes)  # its Triton was restarted
    assert bench.loader.resident == frozenset()


async def test_a_model_in_use_stays(bench: Bench) -> None:
    await bench.loader.load("red")
    bench.used = {"red"}
    refused = await bench.loader.unload("red")
    assert refused.error is not None
    assert (refused.resident, refused.error.reason) == (True, "MODEL_IN_USE")


async def test_what_the_driver_does_not_tell_is_not_nothing() -> None:
    silent, told = Bench(Silent), Bench()
    assert (await silent.loader.load("red")).measured_bytes is None
    unloaded = await silent.loader.unload("red")
    assert unloaded.measured_bytes is None
    assert not told_to(unloaded).model_changed.HasField("measured_bytes")
    await told.loader.load("red")
    again = await told.loader.load("red")  # nothing came, and that is known
    assert told_to(again).model_changed.HasField("measured_bytes")
    assert again.measured_bytes == 0
