"""Pictures to start from, previews, crops, sizes: each fault by its field, with what would do."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.catalog import Catalog, LatentPreview, ModelCard, Preset, Safety
from atelier.errors import InvalidArgumentError
from atelier.output import Crop, ImageFormat, Resize
from atelier.spec import ImageSpec, VideoSpec, least_strength, steps_of
from atelier.translate import generation_from, generation_to
from atelier.v1 import generation_pb2 as pb
from gateway import offers
from gateway.model_servicer import _model
from gateway.requests import Asked, asked_of
from tests.support.cards import toy_card, video_card
from tests.support.hostile import picture, saved

FILE = saved(picture(), "JPEG")
KEY = f"inputs/local/{hashlib.sha256(FILE).hexdigest()}.jpg"
OTHER = "results/local/019f3c3a-0000-7000-8000-000000000000/3/0.png"
DATA, OBJECT = pb.InputImage(data=FILE), pb.InputImage(object_key=OTHER)
PREVIEW = LatentPreview(((0.0, 0.0, 0.0),) * 4, (0.5, 0.5, 0.5))


def whole(card: ModelCard) -> ModelCard:
    """The card of a model that can do everything."""
    return replace(
        card,
        components=replace(card.components, vae_encoder="toy__vae_encoder"),
        latents=replace(card.latents, first_frame=True),
        preview=PREVIEW,
    )


ALL = {"toy": whole(toy_card()), "clips": whole(video_card())}


def ask(request: pb.CreateGenerationRequest, *, cards: dict[str, ModelCard] = ALL) -> Asked:
    return asked_of(
        request,
        catalog=Catalog(cards),
        tenant="local",
        new_id=lambda: "019f3c3a-0000-7000-8000-000000000000",
        new_seed=lambda: 99,
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )


def image(**fields: Any) -> pb.CreateGenerationRequest:
    spec = pb.ImageSpec(**{"prompt": "a ring", **fields})
    return pb.CreateGenerationRequest(model="toy", image=spec)


def video(**fields: Any) -> pb.CreateGenerationRequest:
    spec = pb.VideoSpec(**{"prompt": "a ring", **fields})
    return pb.CreateGenerationRequest(model="clips", video=spec)


def output(**fields: Any) -> pb.CreateGenerationRequest:
    return image(output=pb.ImageOutput(**fields))


def spec_of(request: pb.CreateGenerationRequest) -> ImageSpec | VideoSpec:
    generation = ask(request).checked()
    assert generation_from(generation_to(generation)).spec == generation.spec  # the agent's view
    return generation.spec


def faults(request: pb.CreateGenerationRequest, **options: Any) -> dict[str, str]:
    with pytest.raises(InvalidArgumentError) as refused:
        ask(request, **options).checked()
    return {violation.field: violation.description for violation in refused.value.violations}


def test_a_file_becomes_a_key_that_tells_its_content() -> None:
    spec = spec_of(image(init_image=DATA))
    assert isinstance(spec, ImageSpec)
    assert (spec.init_image, spec.mask_image, spec.strength) == (KEY, "", 0.8)
    [found] = ask(image(init_image=DATA)).pictures
    assert (found.path, found.key, found.data) == ("image.init_image", KEY, FILE)
    assert found.content_type == "image/jpeg"


def test_a_mask_makes_all_steps_unless_told_otherwise() -> None:
    spec = spec_of(image(init_image=OBJECT, mask_image=DATA))
    assert isinstance(spec, ImageSpec)
    assert (spec.init_image, spec.mask_image, spec.strength) == (OTHER, KEY, 1.0)
    spec = spec_of(image(init_image=OBJECT, mask_image=DATA, strength=0.3))
    assert isinstance(spec, ImageSpec) and spec.run_steps == 6
    assert len(ask(image(init_image=OBJECT, mask_image=DATA)).pictures) == 2


def test_a_video_begins_with_a_picture() -> None:
    spec = spec_of(video(first_frame=DATA, preview_every=2))
    assert isinstance(spec, VideoSpec)
    assert (spec.first_frame, spec.preview_every) == (KEY, 2)


def test_what_a_model_does_not_take_is_refused_and_not_looked_at() -> None:
    plain = {"toy": toy_card(), "clips": video_card()}
    asked = image(init_image=DATA, mask_image=DATA, strength=0.5, preview_every=1)
    bad = faults(asked, cards=plain)
    assert set(bad) == {
        f"image.{f}" for f in ("init_image", "mask_image", "strength", "preview_every")
    }
    assert all("leave it out" in text for text in bad.values())
    assert not ask(asked, cards=plain).pictures
    bad = faults(video(first_frame=DATA, preview_every=1), cards=plain)
    assert set(bad) == {"video.first_frame", "video.preview_every"}
    encoder = {"clips": replace(ALL["clips"], latents=video_card().latents)}
    assert set(faults(video(first_frame=DATA), cards=encoder)) == {"video.first_frame"}


def test_a_mask_and_a_strength_need_a_picture() -> None:
    bad = faults(image(mask_image=DATA, strength=0.5))
    assert set(bad) == {"image.mask_image", "image.strength"}
    assert all("needs init_image" in text for text in bad.values())


@pytest.mark.parametrize("key", ["", "x.png", OTHER.replace("local", "else"), "results/local/../a"])
def test_a_key_that_is_not_the_caller_s(key: str) -> None:
    asked = ask(image(init_image=pb.InputImage(object_key=key)))
    [violation] = asked.bad
    assert violation.field == "image.init_image.object_key" and not asked.pictures
    mine = ask(image(init_image=OBJECT)).pictures[0].not_there
    assert mine == violation  # one that is the caller's and is not there is told alike


def test_a_picture_that_is_none() -> None:
    bad = faults(image(init_image=pb.InputImage(), mask_image=pb.InputImage()))
    assert set(bad) == {"image.init_image", "image.mask_image"}
    assert "data or object_key" in bad["image.init_image"]


@given(st.floats() | st.floats(-0.1, 1.1))
def test_a_strength_is_refused_or_leaves_a_step(strength: float) -> None:
    asked = ask(image(init_image=OBJECT, strength=strength))
    if not asked.bad:
        spec = asked.checked().spec
        assert isinstance(spec, ImageSpec) and 1 <= spec.run_steps <= spec.steps == 20
        return
    assert [v.field for v in asked.bad] == ["image.strength"]
    assert not 0 < strength <= 1 or steps_of(20, strength) == 0


@given(st.integers(1, 100), st.floats(0.001, 1))
def test_what_is_proposed_for_a_strength_would_do(steps: int, strength: float) -> None:
    asked = ask(image(init_image=OBJECT, strength=strength, steps=steps))
    if not asked.bad:
        return
    words = asked.bad[0].description.split()
    least = float(words[words.index("leaves", 6) - 1])
    assert not ask(image(init_image=OBJECT, strength=least, steps=steps)).bad
    if words[-1] == "steps":
        assert not ask(image(init_image=OBJECT, strength=strength, steps=int(words[-2]))).bad
    else:
        assert ask(image(init_image=OBJECT, strength=strength, steps=100)).bad


@given(st.integers(1, 3_000))
def test_the_least_strength_leaves_a_step(steps: int) -> None:
    least = least_strength(steps)
    assert steps_of(steps, least) >= 1
    assert least == 0.001 or steps_of(steps, least - 0.001) < 1


def test_all_at_once_and_nothing_is_blamed_for_another_s_fault() -> None:
    bad = faults(
        image(
            prompt="", width=7, steps=0, init_image=pb.InputImage(object_key="x"), strength=0.01,
            mask_image=pb.InputImage(), preview_every=100,
            output=pb.ImageOutput(
                crop=pb.Crop(x=90, width=10, height=10), resize=pb.Resize(width=0), quality=3
            ),
        )
    )  # fmt: skip
    # Not the strength, the previews or the crop: what they are judged by is at fault.
    assert set(bad) == {
        "image.prompt", "image.width", "image.steps", "image.init_image.object_key",
        "image.mask_image", "image.output.resize", "image.output.quality",
    }  # fmt: skip


def test_a_format_that_there_is_not_hides_nothing() -> None:
    asked = output(format=99, quality=0, crop=pb.Crop(), thumbnail_size=1)
    fields = ("format", "quality", "crop", "thumbnail_size")
    assert set(faults(asked)) == {f"image.output.{field}" for field in fields}


def test_presets_say_nothing_about_pictures() -> None:
    preset = Preset("p", {"strength": 0.1, "preview_every": 3, "steps": 9})
    cards = {"toy": replace(ALL["toy"], presets={"p": preset})}
    asked = image(init_image=OBJECT)
    asked.preset = "p"
    spec = ask(asked, cards=cards).checked().spec
    assert isinstance(spec, ImageSpec)
    assert (spec.strength, spec.preview_every, spec.steps) == (0.8, 0, 9)


@pytest.mark.parametrize("every", [0, -1, 21, 2**31 - 1])
def test_previews_come_within_the_steps(every: int) -> None:
    assert set(faults(image(preview_every=every))) == {"image.preview_every"}
    assert spec_of(image(preview_every=20)).preview_every == 20
    assert spec_of(image()).preview_every == 0


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"crop": {"width": 65, "height": 10}}, "crop", "in the picture of 64x64; got 65x10+0+0"),
        ({"crop": {"x": 60, "width": 5, "height": 5}}, "crop", "got 5x5+60+0"),
        ({"crop": {"x": -1, "width": 5, "height": 5}}, "crop", "at 0 or more"),
        ({"crop": {"x": 1, "width": 0, "height": 5}}, "crop", "at least 1x1"),
        ({"crop": {}}, "crop", "at least 1x1"),
        ({"crop": {"x": 2**31 - 1, "width": 2**31 - 1, "height": 1}}, "crop", "in the picture"),
        ({"resize": {}}, "resize", "a width or a height"),
        ({"resize": {"width": 0}}, "resize", "1 to 4096 pixels; got 0"),
        ({"resize": {"width": 5, "height": -5}}, "resize", "got 5 and -5"),
        ({"resize": {"height": 4_097}}, "resize", "got 4097"),
        (
            {"crop": {"width": 1, "height": 64}, "resize": {"width": 65}},
            "resize",
            "1x64 would become 65x4160",
        ),
        ({"resize": {"width": 20}, "thumbnail_size": 21}, "thumbnail_size", "16 to 20 pixels"),
        (
            {"crop": {"width": 8, "height": 9}, "thumbnail_size": 16},
            "thumbnail_size",
            "too small for one, which has 16 pixels or more: leave it out",
        ),
        ({"resize": {"width": 4_000}, "thumbnail_size": 513}, "thumbnail_size", "16 to 512"),
    ],
)
def test_a_size_that_cannot_be(fields: dict[str, Any], field: str, remedy: str) -> None:
    bad = faults(output(**fields))
    assert set(bad) == {f"image.output.{field}"}
    assert remedy in bad[f"image.output.{field}"]


SIDES = st.integers(-2, 80) | st.integers(-(2**31), 2**31 - 1)


@given(SIDES, SIDES, SIDES, SIDES, st.none() | SIDES, st.none() | SIDES, st.none() | SIDES)
def test_what_is_not_refused_can_be_made(
    x: int, y: int, width: int, height: int, w: int | None, h: int | None, small: int | None
) -> None:
    asked = ask(
        output(
            crop=pb.Crop(x=x, y=y, width=width, height=height),
            resize=pb.Resize(width=w, height=h),
            thumbnail_size=small,
        )
    )
    if asked.bad:
        assert {v.field for v in asked.bad} <= {
            f"image.output.{f}" for f in ("crop", "resize", "thumbnail_size")
        }
        return
    made = asked.checked().spec.output
    assert made.crop == Crop(x, y, width, height)  # type: ignore[union-attr]
    assert x + width <= 64 and y + height <= 64 and min(x, y) >= 0
    resize = made.resize  # type: ignore[union-attr]
    assert resize is not None
    size = resize.size_of(width, height)
    assert all(1 <= side <= 4_096 for side in size)
    assert size[0] == w or w is None
    assert size[1] == h or h is None
    assert small is None or 16 <= small <= max(size)


def test_what_is_wanted_of_the_file_reaches_the_agent() -> None:
    asked = output(
        format=pb.IMAGE_FORMAT_WEBP, crop=pb.Crop(x=1, y=2, width=30, height=40),
        resize=pb.Resize(height=20), thumbnail_size=20,
    )  # fmt: skip
    made = spec_of(asked).output
    assert (made.format, made.crop) == (ImageFormat.WEBP, Crop(1, 2, 30, 40))  # type: ignore[union-attr]
    assert (made.resize, made.thumbnail_size) == (Resize(0, 20), 20)  # type: ignore[union-attr]


@pytest.mark.parametrize(("size", "good"), [(15, False), (16, True), (64, True), (65, False)])
def test_a_video_has_a_small_picture_no_larger_than_itself(size: int, good: bool) -> None:
    asked = video(output=pb.VideoOutput(thumbnail_size=size))
    if good:
        assert spec_of(asked).output.thumbnail_size == size
    else:
        assert set(faults(asked)) == {"video.output.thumbnail_size"}


def test_models_tell_what_they_take() -> None:
    full, plain = _model(ALL["toy"]), _model(toy_card())
    assert (full.takes_images, full.takes_first_frame) == (True, False)
    assert (full.has_previews, full.has_safety_checker) == (True, False)
    toy = ALL["toy"]
    guarded = replace(toy, components=replace(toy.components, safety=Safety("guard")))
    told = _model(guarded)  # previews would show what it withholds
    assert (told.has_previews, told.has_safety_checker) == (False, True)
    bad = faults(image(preview_every=1), cards={"toy": guarded})
    assert set(bad) == {"image.preview_every"}
    [limit] = [limit for limit in full.limits if limit.field == "strength"]
    assert (limit.minimum, limit.maximum, limit.default_value) == (0.01, 1.0, 0.8)
    assert not (plain.takes_images or plain.has_previews or plain.has_safety_checker)
    assert "strength" not in [limit.field for limit in plain.limits]
    clips = _model(ALL["clips"])
    assert (clips.takes_images, clips.takes_first_frame) == (False, True)
    assert math.isclose(offers.strength_limit(ALL["toy"]).minimum, 0.01)


def test_the_hash_is_of_what_was_sent() -> None:
    key = pb.InputImage(object_key=KEY)
    hashes = [ask(image(init_image=i)).checked().request_hash for i in (DATA, DATA, key, OBJECT)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
