from uuid import UUID

import pytest

from atelier.catalog import Catalog, ModelCard, Profile, Safety
from atelier.generation import TRANSITIONS, Event, State, new_id, sources
from atelier.spec import Limit
from tests.support.cards import CARD, toy_card


def test_the_table_says_where_events_lead() -> None:
    table = {(t.source, t.event): t.target for t in TRANSITIONS}
    assert len(table) == len(TRANSITIONS)
    assert table[State.QUEUED, Event.CLAIM] is State.RUNNING
    assert table[State.RUNNING, Event.REQUEUE] is State.QUEUED
    assert (State.QUEUED, Event.PUBLISH) not in table
    assert sources(Event.CANCEL) == (State.QUEUED, State.RUNNING)


def test_ids_are_uuid7_and_sort_by_time() -> None:
    early, late = new_id(1_000.0, 2**74 - 1), new_id(1_000.001, 0)
    assert early < late
    assert {UUID(early).version, UUID(late).version} == {7}
    assert UUID(early).variant == UUID(late).variant == "specified in RFC 4122"
    assert int(UUID(late)) >> 80 == 1_000_001


def test_step_seconds_are_linear_between_measured_points() -> None:
    profile = Profile(1, 8, ((1, 0.1), (4, 0.4), (8, 0.6)))
    assert [profile.seconds_of_step(n) for n in (1, 2, 6, 99)] == pytest.approx(
        [0.1, 0.2, 0.5, 0.6]
    )


def test_an_unmeasured_shape_counts_as_the_largest_measured() -> None:
    card = toy_card(profiles={"s": Profile(1, 8, ((1, 1.0),)), "l": Profile(9, 2, ((1, 2.0),))})
    assert card.profile("unknown").activation_bytes_per_row == 9


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("name = ", "Invalid"),
        (CARD.replace('family = "sd"', ""), "family"),
        (CARD.replace("[limits.steps]", "[limits.stairs]"), "steps"),
        (CARD.replace("tokens = 32", "tokens = 32\nodd = 1"), "odd"),
        (CARD + "[weights]\nother__denoiser = 1", "weights of no component: other__denoiser"),
        (CARD + "[weights]\ntoy__denoiser = 101", "more than resident_bytes"),
        (CARD + "[safety]\nthreshold = 0.5", "model"),
        (CARD + '[safety]\nmodel = "guard"\nthreshold = nan', "a number as its threshold"),
    ],
)
def test_a_wrong_card_says_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        ModelCard.parse(text)


def test_cards_may_share_a_triton_model_and_old_cards_share_nothing() -> None:
    shared = "[weights]\ntoy__vae_decoder = 30\ntoy__denoiser = 60"
    one = ModelCard.parse(CARD + shared)
    other = ModelCard.parse(
        (CARD + shared).replace("toy__denoiser", "new__denoiser").replace('"toy"', '"new"')
    )
    common = set(one.components.triton_models) & set(other.components.triton_models)
    assert common == {"toy__text_encoder", "toy__vae_decoder"}
    assert {name: other.weights.get(name) for name in common} == {
        "toy__text_encoder": None,
        "toy__vae_decoder": 30,
    }
    assert ModelCard.parse(CARD).weights == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ('masking = "blend"', "no such masking: blend; export it again"),
        ("first_frame = true", "for clips whose frames lie in the channels"),
        ("first_frame = true\nframes = 2\noutput_frames = 5", "for clips whose frames lie"),
    ],
)
def test_what_no_agent_can_feed_is_refused(given: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ModelCard.parse(CARD.replace("downscale = 4", f"downscale = 4\n{given}"))


def test_a_checker_is_a_component_that_models_may_share() -> None:
    safety = '[safety]\nmodel = "guard"\nthreshold = 0.25\n[weights]\nguard = 5\n'
    card = ModelCard.parse(CARD + safety)
    assert card.safety == Safety("guard", "images", "unsafe", 0.25)
    assert "guard" in card.components.triton_models and card.weights["guard"] == 5
    other = ModelCard.parse((CARD + safety).replace("toy", "new"))
    assert {*card.components.triton_models} & {*other.components.triton_models} == {"guard"}
    assert ModelCard.parse(CARD).safety is None


def test_a_repository_without_cards_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="no model cards"):
        Catalog.read(tmp_path)
    (tmp_path / "bad.toml").write_text("name = 1")
    with pytest.raises(ValueError, match=r"bad\.toml"):
        Catalog.read(tmp_path)


def test_a_limit_says_what_is_allowed() -> None:
    size = Limit("width", 64, 512, 64, 8, "pixels")
    assert size.range == "64 to 512 pixels, a multiple of 8"
    assert Limit("width", 64, 64, 64, 16, "pixels").range == "64 pixels"
    assert Limit("steps", 1, 100, 20, 1).range == "1 to 100"
    wrong = size.violation(float("nan"), "image.width")
    assert wrong and wrong.description.startswith("must be 64 to 512 pixels, a multiple of 8; nan")
