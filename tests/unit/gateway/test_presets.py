"""Presets: refused when written, filled in when used, overruled by the request."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from atelier.catalog import Catalog
from atelier.errors import InvalidArgumentError
from atelier.generation import Generation
from atelier.spec import ImageSpec, VideoSpec
from atelier.v1 import generation_pb2 as pb
from atelier.v1.preset_pb2 import Preset
from atelier.v1.preset_store_pb2 import FoundPreset
from gateway.presets import Found, chosen, keys_of, preset_violations, reference_to
from gateway.requests import asked_of, hash_of
from tests.unit.gateway.test_pictures_asked_for import ALL, OTHER

CATALOG = Catalog(ALL)
KEY = pb.InputImage(object_key=OTHER)


def preset(name: str = "draft", model: str = "toy", **fields: Any) -> Preset:
    return Preset(model=model, name=name, version=3, image=pb.ImageSpec(**fields))


def found(*presets: Preset) -> Found:
    return Found({(p.model, p.name): p for p in presets}, {"toy": ("ink", "poster")})


def made(request: pb.CreateGenerationRequest, presets: Found) -> Generation:
    return asked_of(
        request,
        catalog=CATALOG,
        tenant="local",
        new_id=lambda: "019f3c3a-0000-7000-8000-000000000000",
        new_seed=lambda: 99,
        now=datetime(2026, 1, 1, tzinfo=UTC),
        presets=presets,
    ).checked()


def image(preset: str, **fields: Any) -> pb.CreateGenerationRequest:
    spec = pb.ImageSpec(**{"prompt": "a ring", **fields})
    return pb.CreateGenerationRequest(model="toy", image=spec, preset=preset)


def faults(request: pb.CreateGenerationRequest, presets: Found) -> dict[str, str]:
    with pytest.raises(InvalidArgumentError) as refused:
        made(request, presets)
    return {wrong.field: wrong.description for wrong in refused.value.violations}


def test_what_the_request_leaves_unset_comes_from_the_preset_then_from_the_model() -> None:
    ink = preset("ink", steps=8, guidance=3.0, sampler="euler", negative_prompt="blur", seed=5)
    request = image("ink", steps=30, seed=0)
    sent = copy.deepcopy(request)
    generation = made(request, found(ink))
    spec = generation.spec
    assert isinstance(spec, ImageSpec)
    assert (spec.steps, spec.seed) == (30, 0)  # the request's own
    assert (spec.guidance, spec.sampler, spec.negative_prompt) == (3.0, "euler", "blur")
    assert spec.width == 64  # the model's
    assert generation.preset == "ink@3"
    assert request == sent and generation.request_hash == hash_of(sent)


def test_the_request_hash_knows_the_preset_s_name_and_not_its_values() -> None:
    one, two = preset("ink", steps=8), preset("ink", steps=9)
    hashes = {made(image("ink"), found(p)).request_hash for p in (one, two)}
    assert len(hashes) == 1
    assert made(image("draft"), found()).request_hash not in hashes


def test_an_output_is_filled_in_field_by_field_and_its_parts_as_a_whole() -> None:
    ink = preset(
        "ink",
        output=pb.ImageOutput(
            format=pb.IMAGE_FORMAT_WEBP, quality=50, crop=pb.Crop(x=8, width=40, height=40)
        ),
    )
    own = pb.ImageOutput(quality=80, crop=pb.Crop(width=20, height=20))
    spec = made(image("ink", output=own), found(ink)).spec
    assert isinstance(spec, ImageSpec)
    assert (spec.output.format, spec.output.quality) == ("WEBP", 80)
    assert spec.output.crop and spec.output.crop.x == 0


def test_a_prompt_may_come_from_the_preset() -> None:
    request = pb.CreateGenerationRequest(model="toy", preset="ink")
    assert made(request, found(preset("ink", prompt="a blue ring"))).spec.prompt == "a blue ring"


def test_a_strength_waits_for_a_picture() -> None:
    ink = found(preset("ink", strength=0.3))
    plain, started = made(image("ink"), ink).spec, made(image("ink", init_image=KEY), ink).spec
    assert isinstance(plain, ImageSpec) and isinstance(started, ImageSpec)
    assert (plain.strength, started.strength) == (1.0, 0.3)


def test_a_video_has_presets_too() -> None:
    slow = Preset(model="clips", name="slow", version=1, video=pb.VideoSpec(frames_per_second=4))
    request = pb.CreateGenerationRequest(
        model="clips", preset="slow", video=pb.VideoSpec(prompt="a ring")
    )
    spec = made(request, found(slow)).spec
    assert isinstance(spec, VideoSpec) and spec.frames_per_second == 4


def test_one_of_the_model_s_own_is_used_where_no_other_has_its_name() -> None:
    generation = made(image("draft"), found())
    assert (generation.preset, generation.spec.steps) == ("draft", 8)
    generation = made(image("draft"), found(preset(steps=11)))
    assert (generation.preset, generation.spec.steps) == ("draft@3", 11)


def test_an_unknown_one_is_told_with_what_may_have_been_meant() -> None:
    bad = faults(image("postr"), found())
    assert set(bad) == {"preset"} and "did you mean poster?" in bad["preset"]
    assert "draft, ink, poster" in faults(image("zzz"), found())["preset"]


def test_a_value_that_is_at_fault_tells_that_the_preset_gave_it() -> None:
    old = found(preset("ink", steps=500, guidance=2.0))  # written before the card was changed
    bad = faults(image("ink", guidance=99.0), old)
    assert bad["image.steps"].endswith("(from the preset ink@3)")
    assert "preset" not in bad["image.guidance"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"width": 65}, "preset.image.width"),
        ({"steps": 0}, "preset.image.steps"),
        ({"guidance": float("nan")}, "preset.image.guidance"),
        ({"sampler": "magic"}, "preset.image.sampler"),
        ({"seed": -1}, "preset.image.seed"),
        ({"strength": 0.0}, "preset.image.strength"),
        ({"preview_every": 99}, "preset.image.preview_every"),
        ({"negative_prompt": "x" * 5_000}, "preset.image.negative_prompt"),
        ({"prompt": "a\0b"}, "preset.image.prompt"),
        ({"init_image": KEY}, "preset.image.init_image"),
        ({"init_image": KEY, "mask_image": KEY}, "preset.image.mask_image"),
        ({"output": pb.ImageOutput(quality=3)}, "preset.image.output.quality"),
        ({"output": pb.ImageOutput(omit_metadata=True)}, "preset.image.output.omit_metadata"),
    ],
)
def test_what_breaks_the_model_s_limits_is_refused_when_it_is_written(
    changed: dict[str, Any], field: str
) -> None:
    assert field in [wrong.field for wrong in preset_violations(preset(**changed), CATALOG, "t")]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (Preset(model="toy", name="Ink", image=pb.ImageSpec()), "preset.name"),
        (Preset(model="toy", name="a" * 64, image=pb.ImageSpec()), "preset.name"),
        (Preset(model="toi", name="ink", image=pb.ImageSpec()), "preset.model"),
        (Preset(model="toy", name="ink"), "preset.spec"),
        (Preset(model="toy", name="ink", video=pb.VideoSpec()), "preset.spec"),
        (preset("ink"), ""),
        (preset("ink", steps=8, strength=0.5, sampler="euler"), ""),
    ],
)
def test_how_a_preset_is_named_and_of_what_kind_it_is(bad: Preset, field: str) -> None:
    assert [v.field for v in preset_violations(bad, CATALOG, "t")] == ([field] if field else [])


def test_a_description_has_an_end() -> None:
    long = preset()
    long.description = "x" * 1_001
    [wrong] = preset_violations(long, CATALOG, "t")
    assert wrong.field == "preset.description"


def test_a_reference_leads_to_the_caller_s_own_first() -> None:
    def stands(reference: str, *there: tuple[bool, int, int]) -> str:
        """there: (shared, version asked for, version)."""
        made = []
        for shared, asked, version in there:
            for key in keys_of("toy", reference):
                if (key.shared, key.version) == (shared, asked):
                    one = Preset(model="toy", name=key.name, shared=shared, version=version)
                    made.append(FoundPreset(key=key, preset=one))
        answer = chosen([("toy", reference)], made)
        return reference_to(answer["toy", reference]) if answer else ""

    assert stands("ink", (False, 0, 4), (True, 0, 2)) == "ink@4"
    assert stands("ink", (True, 0, 2)) == "shared/ink@2"
    assert stands("shared/ink", (False, 0, 4), (True, 0, 2)) == "shared/ink@2"
    assert stands("ink@1", (False, 1, 1)) == "ink@1"
    assert stands("ink") == stands("ink@0", (False, 0, 4)) == stands("../x") == ""
