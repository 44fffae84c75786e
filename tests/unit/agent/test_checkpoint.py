"""Checkpoints: kept, stored, found, and used only where they fit."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from agent.checkpoint import Checkpoint, Checkpoints, key_of, pack, print_of, unpack
from agent.work import Attempt, Work
from atelier.spec import ImageSpec
from tests.support.cards import toy_card
from tests.unit.agent.fakes import DictStore

CARD = toy_card()
SHAPE = (1, 4, 16, 16)
SPEC = ImageSpec(
    prompt="a", negative_prompt="", width=64, height=64, steps=9, guidance=1.5, seed=1, count=1,
    sampler="ddim",
)  # fmt: skip
WORK = Work(Attempt("gen", 1, "d0"), "a/../b", "toy", SPEC)
AGAIN = replace(WORK, attempt=Attempt("gen", 2, "d1"), number=2)


def checkpoint(work: Work = WORK, step: int = 3) -> Checkpoint:
    rng = np.random.default_rng(step)
    latents, denoised = (rng.standard_normal(SHAPE, dtype=np.float32) for _ in range(2))
    return Checkpoint(print_of(work, CARD), step, latents, denoised)


def same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found
    assert (found.print, found.step) == (expected.print, expected.step)
    np.testing.assert_array_equal(found.latents, expected.latents)
    np.testing.assert_array_equal(found.denoised_prev, expected.denoised_prev)


def test_packed_and_unpacked_it_is_the_same() -> None:
    same(unpack(pack(checkpoint())), checkpoint())


@pytest.mark.parametrize("data", [b"", b"PK", b"\x93NUMPY", pack(checkpoint())[:-30]])
def test_what_is_no_checkpoint_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a checkpoint"):
        unpack(data)


async def test_another_agent_goes_on_and_who_ends_deletes() -> None:
    store = DictStore()
    here, there = Checkpoints(store), Checkpoints(store)
    await here.save_and_wait(WORK, checkpoint())
    assert list(store.objects) == ["checkpoints/a%2F%2E%2E%2Fb/gen"]
    same(await here.find(AGAIN, CARD, SHAPE), checkpoint())
    same(await there.find(AGAIN, CARD, SHAPE), checkpoint())
    assert await there.find(WORK, CARD, SHAPE) is None  # a first attempt asks nobody
    there.forget(AGAIN)
    there._thread.shutdown()
    assert store.objects == {}
    here.close()


async def test_what_does_not_fit_is_not_used() -> None:
    store = DictStore()
    checkpoints = Checkpoints(store)
    other_spec = replace(AGAIN, spec=replace(SPEC, seed=2))
    for wrong in (
        replace(checkpoint(), print="another"),
        replace(checkpoint(), step=0),
        replace(checkpoint(), step=9),
        replace(checkpoint(), latents=np.full(SHAPE, np.nan, np.float32)),
        replace(checkpoint(), latents=np.zeros((2, *SHAPE[1:]), np.float32)),
        replace(checkpoint(), latents=np.zeros(SHAPE, np.float64)),
        checkpoint(other_spec),
    ):
        store.objects[key_of(AGAIN)] = pack(wrong)
        assert await checkpoints.find(AGAIN, CARD, SHAPE) is None
    store.objects[key_of(AGAIN)] = b"rubbish"
    assert await checkpoints.find(AGAIN, CARD, SHAPE) is None
    store.objects[key_of(AGAIN)] = pack(checkpoint())
    assert await checkpoints.find(AGAIN, toy_card(version="sha256:1"), SHAPE) is None
    same(await checkpoints.find(AGAIN, CARD, SHAPE), checkpoint())
    checkpoints.close()


async def test_a_store_that_is_away_costs_steps_only() -> None:
    store = DictStore()
    store.broken = True
    checkpoints = Checkpoints(store)
    await checkpoints.save_and_wait(WORK, checkpoint())
    same(await checkpoints.find(AGAIN, CARD, SHAPE), checkpoint())  # it is kept here
    checkpoints.close()


async def test_a_store_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.checkpoint.PATIENCE_SECONDS", 0.01)
    store = DictStore()
    store.open.clear()
    checkpoints = Checkpoints(store)
    async with asyncio.timeout(5):
        await checkpoints.save_and_wait(WORK, checkpoint())
        other = replace(AGAIN, attempt=Attempt("other", 2, "d0"))
        assert await checkpoints.find(other, CARD, SHAPE) is None
    store.open.set()
    checkpoints._thread.shutdown()


def test_the_oldest_make_room() -> None:
    checkpoints = Checkpoints(None, kept_bytes=2 * checkpoint().nbytes)
    for name in ("a", "b", "c"):
        checkpoints.keep(replace(WORK, attempt=Attempt(name, 1, "d0")), checkpoint())
    assert list(checkpoints._kept) == ["b", "c"]
