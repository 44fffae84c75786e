"""What models say that they take is what they take; all else is refused, with a hint."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message

from atelier.catalog import Catalog, ModelCard
from atelier.spec import Limit
from atelier.suggest import known_names
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import model_pb2
from gateway.requests import asked_of
from gateway.vocabulary import _leaves, parameters_of
from tests.support.cards import toy_card, video_card
from tests.unit.gateway.test_pictures_asked_for import ALL, OTHER

CARDS = {"plain": toy_card(), "plain clips": video_card(), **ALL}
SPECS = {"image": pb.ImageSpec, "video": pb.VideoSpec}
CASES = [
    (name, kind, path)
    for name in CARDS
    for kind, spec in SPECS.items()
    for path, _ in _leaves(spec.DESCRIPTOR)
]


def bad_of(request: pb.CreateGenerationRequest, card: ModelCard) -> dict[str, str]:
    asked = asked_of(
        request,
        catalog=Catalog({card.name: card}),
        tenant="local",
        new_id=lambda: "019f3c3a-0000-7000-8000-000000000000",
        new_seed=lambda: 99,
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return {wrong.field: wrong.description for wrong in asked.bad}


def said(spec: Message, path: str, value: Any) -> None:
    *folders, name = path.split(".")
    for folder in folders:
        spec = getattr(spec, folder)
    if isinstance(value, Message):
        getattr(spec, name).CopyFrom(value)
    else:
        setattr(spec, name, value)


def a_value(spec: type[Message], path: str, card: ModelCard) -> Any:
    """One that is good by what the model tells of it; if it tells nothing, one that is sensible."""
    parameters = parameters_of(card) if spec is SPECS[card.kind] else []
    told = {parameter.field: parameter for parameter in parameters}.get(path)
    field = dict(_leaves(spec.DESCRIPTOR))[path]
    if field.message_type:
        return pb.InputImage(object_key=OTHER)
    if told and told.choices:
        choice = told.choices[-1]
        return field.enum_type.values_by_name[choice].number if field.enum_type else choice
    if field.enum_type:
        return 1
    if field.type == field.TYPE_STRING:
        return "word"
    if field.type == field.TYPE_BOOL:
        return True
    least = told.minimum if told else 1
    return least if field.type == field.TYPE_DOUBLE else int(least)


@pytest.mark.parametrize(("name", "kind", "path"), CASES)
def test_what_is_listed_is_taken_and_nothing_else(name: str, kind: str, path: str) -> None:
    card = CARDS[name]
    told = {parameter.field: parameter for parameter in parameters_of(card)}
    request = pb.CreateGenerationRequest(model=card.name)
    spec = request.video if kind == "video" else request.image
    spec.prompt = "a ring"  # type: ignore[attr-defined]
    said(spec, path, a_value(SPECS[kind], path, card))
    listed = kind == card.kind and path in told
    if listed:
        for needed in told[path].needs:
            said(spec, needed, a_value(SPECS[kind], needed, card))
    if path.startswith("output.crop."):  # its parts are one thing
        spec.output.crop.width = spec.output.crop.height = 1  # type: ignore[union-attr]
    bad = bad_of(request, card)
    # A strength of the least value that any steps allow may leave none of these.
    if listed and path == "strength":
        assert "leaves none" in bad.pop(f"{kind}.strength", "leaves none")
    assert bool(bad) != listed, (bad, path)
    if not listed and kind == card.kind:
        assert set(bad) == {f"{kind}.{path}"}
        assert "leave it out" in bad[f"{kind}.{path}"]


def test_a_parameter_tells_its_bounds_and_its_default() -> None:
    told = {parameter.field: parameter for parameter in parameters_of(ALL["toy"])}
    width, sampler, seed, prompt = (told[n] for n in ("width", "sampler", "seed", "prompt"))
    assert (width.minimum, width.maximum, width.multiple_of, width.unit) == (64, 128, 8, "pixels")
    assert width.default_number == 64 and width.WhichOneof("default") == "default_number"
    assert (list(sampler.choices), sampler.default_choice) == (["ddim", "euler"], "ddim")
    assert (seed.maximum, seed.WhichOneof("default")) == (2**32 - 1, None)
    assert (prompt.required, prompt.minimum, prompt.maximum) == (True, 1, 4_000)
    assert told["output.format"].default_choice == "IMAGE_FORMAT_PNG"
    assert told["strength"].needs == ["init_image"]
    assert told["init_image"].type == model_pb2.PARAMETER_TYPE_PICTURE
    assert len(told) == len(parameters_of(ALL["toy"]))


@pytest.mark.parametrize(
    ("image", "field", "words"),
    [
        ({"sampler": "eulr"}, "image.sampler", "did you mean euler?"),
        ({"sampler": "x" * 500}, "image.sampler", "there are: ddim, euler"),
        ({"width": 70}, "image.width", "next to which is 72"),
        ({"width": 9_000}, "image.width", "next to which is 128"),
        ({"steps": 0}, "image.steps", "next to which is 1"),
        ({"guidance": 0.5}, "image.guidance", "next to which is 1"),
    ],
)
def test_what_may_have_been_meant(image: dict[str, Any], field: str, words: str) -> None:
    request = pb.CreateGenerationRequest(model="toy", image=pb.ImageSpec(prompt="x", **image))
    assert words in bad_of(request, toy_card())[field]


def test_a_model_without_guidance_says_so() -> None:
    limits = {**toy_card().limits, "guidance": Limit("guidance", 1, 1, 1)}
    image = pb.ImageSpec(prompt="x", guidance=7.5)
    bad = bad_of(
        pb.CreateGenerationRequest(model="toy", image=image), replace(toy_card(), limits=limits)
    )
    assert "must be 1, and nothing else: leave it out" in bad["image.guidance"]


@pytest.mark.parametrize(
    ("path", "field"),
    [((), "CreateGenerationRequest"), (("image",), "image"), (("image", "output"), "image.output")],
)
def test_what_a_later_contract_may_know_is_not_ignored(path: tuple[str, ...], field: str) -> None:
    request = pb.CreateGenerationRequest(model="toy", image=pb.ImageSpec(prompt="x"))
    inner: Any = request
    for name in path:
        inner = getattr(inner, name)
    inner.MergeFromString(b"\xf8\x3f\x01")  # field 1023, a number
    bad = bad_of(request, toy_card())
    assert set(bad) == {field} and "1023" in bad[field] and "leave it out" in bad[field]


def test_long_lists_of_names_have_an_end() -> None:
    names = [f"name-{number:03}" for number in range(100)]
    assert "and 80 more" in known_names("zzz", names)
    assert known_names("nme-042", names).startswith("did you mean name-042?")
    assert "leave it empty" in known_names("x", [])
