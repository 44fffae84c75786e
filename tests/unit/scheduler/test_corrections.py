"""What is believed of measures that differ from the cards."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.corrections import ENOUGH, MOST_BYTES, Correction, Corrections, component_bytes
from scheduler.model import Model, model_of, models_of
from scheduler.sched import Sched
from tests.support.cards import toy_card

MIB = float(2**20)


def card(name: str, text: str = "text"):  # type: ignore[no-untyped-def]
    """A card of 1000 MiB: text 200, denoiser 700, VAE 60, and 40 that it does not break down."""
    parts = replace(
        toy_card().components,
        text_encoder=text, denoiser=f"{name}__denoiser", vae_decoder=f"{name}__vae",
    )  # fmt: skip
    weights = {text: 200, f"{name}__denoiser": 700, f"{name}__vae": 60}
    return toy_card(
        name,
        components=parts,
        weights={part: int(size * MIB) for part, size in weights.items()},
        resident_bytes=int(1000 * MIB),
        profiles={
            "64x64": replace(toy_card().profiles["64x64"], activation_bytes_per_row=int(100 * MIB))
        },
    )


RED, BLUE = card("red"), card("blue")
ALL = RED.components.triton_models


@pytest.fixture
def corrections() -> Corrections:
    cards = (RED, BLUE)
    return Corrections(models_of(cards), {c.name: component_bytes(c) for c in cards})


def loads(corrections: Corrections, *took: float, seconds: float = 2.0) -> Model | None:
    """The model after loads that took so many MiB each; None where nothing was corrected."""
    found: list[Correction] = []
    for one in took:
        found += corrections.loaded("red", ALL, one * MIB, seconds, from_host=False)
    mine = [c.model for c in found if c.model.name == "red"]
    return mine[-1] if mine else None


def test_a_card_is_broken_down_completely() -> None:
    assert component_bytes(RED) == {
        "text": 200 * MIB, "red__denoiser": 740 * MIB, "red__vae": 60 * MIB
    }  # fmt: skip
    assert component_bytes(toy_card()) == {
        "toy__text_encoder": 0, "toy__denoiser": 100, "toy__vae_decoder": 0
    }  # fmt: skip


def test_more_than_declared_is_believed_by_halves(corrections: Corrections) -> None:
    weights = []
    for _ in range(3):
        model = loads(corrections, 1400)
        assert model
        weights.append(round(model.weights / MIB))
    assert weights == [1200, 1300, 1350]
    assert loads(corrections, 1400) is None  # less than two per cent more is not worth telling


def test_less_is_believed_after_several_and_never_below_any(corrections: Corrections) -> None:
    assert loads(corrections, *[600] * (ENOUGH - 1)) is None
    model = loads(corrections, 700)
    assert model
    assert model.weights == 700 * MIB


def test_one_wild_measure_among_many_changes_nothing(corrections: Corrections) -> None:
    loads(corrections, *[1000] * 5)
    assert loads(corrections, 9000) is None


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30))
def test_weights_stay_within_bounds(took: list[float]) -> None:
    corrections = Corrections({"red": model_of(RED)}, {"red": component_bytes(RED)})
    model = loads(corrections, *took) or model_of(RED)
    assert 1000 * MIB / MOST_BYTES <= model.weights <= 1000 * MIB * MOST_BYTES
    if len(took) < ENOUGH:
        assert model.weights >= 1000 * MIB


def test_a_shared_component_corrects_all_that_share_it(corrections: Corrections) -> None:
    corrections.loaded("red", ALL, 1000 * MIB, 2.0, from_host=False)
    found = corrections.loaded("blue", ["text"], 400 * MIB, 0.5, from_host=False)
    assert {c.model.name for c in found} == {"red", "blue"}
    assert all(c.model.weights > 1000 * MIB for c in found)
    assert all(c.model.shared["text"] == 275 * MIB for c in found)
    assert all(c.model.load == 2.0 for c in found)  # a part of a load tells nothing of its time


def test_loads_are_timed_from_disk_and_from_memory_apart(corrections: Corrections) -> None:
    model = loads(corrections, 1000, 1000, 1000, seconds=6.0)
    assert model
    assert (model.load, model.load_host) == (5.5, None)
    for _ in range(3):
        found = corrections.loaded("red", ALL, 1000 * MIB, 0.4, from_host=True)
    assert found[-1].model.load == 5.5
    assert found[-1].model.load_host == pytest.approx(0.6)


def test_most_of_a_load_tells_of_a_whole_one(corrections: Corrections) -> None:
    parts = ["red__denoiser", "red__vae"]  # 800 of 1000 MiB
    for _ in range(3):
        found = corrections.loaded("red", parts, 800 * MIB, 4.8, from_host=False)
    assert found[-1].model.load == pytest.approx(5.5)


def batches(corrections: Corrections, rows: int, seconds: float, held: float = 0.0) -> Model | None:
    found: list[Correction] = []
    for _ in range(8):
        found += corrections.batch("red", "64x64", rows, seconds, held)
    return found[-1].model if found else None


def test_step_times_follow_what_was_measured(corrections: Corrections) -> None:
    model = batches(corrections, 1, 0.02)  # declared 0.01, and 0.03 at 4 rows
    assert model
    shape = model.shapes["64x64"]
    assert shape.step(1) == pytest.approx(0.02, rel=0.06)
    assert shape.step(4) == pytest.approx(0.06, rel=0.06)  # as the declared line, twice as steep
    model = batches(corrections, 4, 0.03)
    assert model
    assert model.shapes["64x64"].step(4) == pytest.approx(0.03, rel=0.06)
    assert model.shapes["64x64"].step(1) == pytest.approx(0.02, rel=0.06)


def test_a_line_never_falls(corrections: Corrections) -> None:
    batches(corrections, 1, 0.03)
    model = batches(corrections, 4, 0.01)
    assert model
    shape = model.shapes["64x64"]
    assert shape.step_a >= 0
    assert shape.step_c >= 0


def test_what_a_batch_holds_corrects_its_rows(corrections: Corrections) -> None:
    model = batches(corrections, 4, 0.03, held=800 * MIB)
    assert model
    assert model.shapes["64x64"].activation == pytest.approx(200 * MIB, rel=0.02)
    assert model.activation == model.shapes["64x64"].activation


def test_a_shape_of_no_card_is_learnt(corrections: Corrections) -> None:
    found = corrections.batch("red", "128x96", 1, 0.05, 300 * MIB)
    shapes = found[-1].model.shapes
    assert shapes["128x96"].activation == 200 * MIB  # half way
    assert shapes["64x64"].activation == 100 * MIB
    for i in range(200):  # no more than so many of an agent's inventions
        corrections.batch("red", f"{i}x{i}", 1, 0.05, 300 * MIB)
    (last,) = corrections.batch("red", "128x96", 1, 0.5, 0)
    assert len(last.model.shapes) <= 64


def test_what_nobody_knows_is_let_be(corrections: Corrections) -> None:
    assert corrections.loaded("green", ["x"], 5 * MIB, 1.0, from_host=False) == []
    assert corrections.batch("green", "64x64", 1, 1.0, 5) == []
    assert corrections.batch("red", "64x64", 0, 1.0, 5) == []
    assert corrections.batch("red", "64x64", 5, 1.0, 5) == []  # more than a batch may have
    assert corrections.loaded("red", ALL, 0, 0.0, from_host=False) == []  # no driver


def test_the_core_counts_by_it(corrections: Corrections) -> None:
    sched = Sched({c.name: model_of(c) for c in (RED, BLUE)})
    sched.device_up("d0", "n0", 4000 * MIB, 0.0, resident=["red"])
    free = sched.devices["d0"].free(sched.models)
    for correction in corrections.loaded("red", ALL, 1400 * MIB, 2.0, from_host=False):
        sched.correct(correction.model)
    assert sched.devices["d0"].free(sched.models) == free - 200 * MIB
