"""Everything a caller can get wrong is named, all at once."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from atelier.catalog import Catalog
from atelier.errors import InvalidArgumentError
from atelier.generation import Generation
from atelier.output import ImageFormat, ImageOutput
from atelier.spec import MAX_SEED
from atelier.translate import generation_from, generation_to, time_to
from atelier.v1 import generation_pb2 as pb
from gateway.requests import asked_of, checked_id, fits_page, page_of, page_token
from tests.support.cards import toy_card

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "019f3c3a-0000-7000-8000-000000000000"


def resolve(request: pb.CreateGenerationRequest, path: str = "") -> Generation:
    return asked_of(
        request,
        catalog=Catalog({"toy": toy_card()}),
        tenant="local",
        new_id=lambda: ID,
        new_seed=lambda: 99,
        now=NOW,
        path=path,
    ).checked()


def request(model: str = "toy", **image: object) -> pb.CreateGenerationRequest:
    spec = {"prompt": "a red circle", **image}
    return pb.CreateGenerationRequest(model=model, image=pb.ImageSpec(**spec))  # type: ignore[arg-type]


def fields_at_fault(r: pb.CreateGenerationRequest) -> list[str]:
    with pytest.raises(InvalidArgumentError) as refused:
        resolve(r)
    return [violation.field for violation in refused.value.violations]


def test_what_is_not_given_is_the_model_s_default() -> None:
    spec = resolve(request()).spec
    assert (spec.width, spec.height, spec.steps, spec.guidance, spec.count) == (64, 64, 20, 1.5, 1)
    assert (spec.seed, spec.sampler) == (99, "ddim")


def test_a_preset_stands_in_and_the_request_s_own_values_win() -> None:
    r = request()
    r.preset = "draft"
    assert (resolve(r).spec.steps, resolve(r).spec.sampler) == (8, "euler")
    r.image.steps = 3
    assert resolve(r).spec.steps == 3


@pytest.mark.parametrize(
    ("image", "field"),
    [
        ({"prompt": ""}, "image.prompt"),
        ({"prompt": " \n"}, "image.prompt"),
        ({"prompt": "x" * 100_000}, "image.prompt"),
        ({"prompt": "a\0b"}, "image.prompt"),
        ({"negative_prompt": "x" * 5_000}, "image.negative_prompt"),
        ({"width": 0}, "image.width"),
        ({"width": -8}, "image.width"),
        ({"width": 65}, "image.width"),
        ({"height": 136}, "image.height"),
        ({"steps": 0}, "image.steps"),
        ({"steps": 10_000}, "image.steps"),
        ({"guidance": float("nan")}, "image.guidance"),
        ({"guidance": float("inf")}, "image.guidance"),
        ({"guidance": 0.5}, "image.guidance"),
        ({"seed": -1}, "image.seed"),
        ({"seed": MAX_SEED + 1}, "image.seed"),
        ({"count": 0}, "image.count"),
        ({"count": 9}, "image.count"),
        ({"sampler": "magic"}, "image.sampler"),
    ],
)
def test_a_bad_field_is_named(image: dict[str, object], field: str) -> None:
    assert fields_at_fault(request(**image)) == [field]


def test_all_bad_fields_are_named_at_once() -> None:
    r = request(width=0, steps=0, guidance=float("nan"))
    r.request_id = "with spaces"
    r.preset = "nobody"
    r.labels[""] = "x"
    r.priority = 77  # type: ignore[assignment]
    r.deadline.CopyFrom(time_to(NOW - timedelta(seconds=1)))
    assert set(fields_at_fault(r)) == {
        "request_id", "labels", "priority", "deadline", "preset", "image.width", "image.steps",
        "image.guidance",
    }  # fmt: skip


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(seconds=253402300800),  # the year 10000
        Timestamp(seconds=253402300799),  # the last second of 9999
        Timestamp(seconds=10**17),
        Timestamp(seconds=-(10**17)),
        Timestamp(seconds=4102444800, nanos=-5),
        Timestamp(seconds=4102444800, nanos=2_000_000_000),
    ],
)
def test_a_time_that_is_none_is_named(moment: Timestamp) -> None:
    r = request()
    r.deadline.CopyFrom(moment)
    assert fields_at_fault(r) == ["deadline"]
    if moment.seconds == 253402300799:
        return
    for field in ("created_after", "created_before"):
        which = pb.GenerationFilter(**{field: moment})  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError) as refused:
            page_of(pb.ListGenerationsRequest(filter=which), "local")
        assert [v.field for v in refused.value.violations] == [f"filter.{field}"]


def test_many_bad_labels_are_named_in_an_answer_of_bounded_size() -> None:
    r = request()
    for n in range(200):
        r.labels[f"{'k' * 70}{n}"] = "v" * 300
    faults = fields_at_fault(r)
    assert faults[:2] == ["labels", "labels"] and faults[-1] == "..." and len(faults) == 21


def test_a_page_has_room_for_so_much() -> None:
    assert fits_page([10, 10]) == 2
    assert fits_page([2**20] * 5) == 3
    assert fits_page([2**30, 1]) == 1  # never none: the next page would be this one again


@pytest.mark.parametrize(
    ("output", "field", "remedy"),
    [
        ({"format": 9}, "format", "PNG, JPEG, WEBP, AVIF"),
        ({"quality": 90}, "quality", "leave it out, or choose JPEG, WEBP, AVIF"),
        ({"format": pb.IMAGE_FORMAT_JPEG, "quality": 0}, "quality", "1 to 100"),
        ({"format": pb.IMAGE_FORMAT_AVIF, "quality": 101}, "quality", "1 to 100"),
        ({"thumbnail_size": 0}, "thumbnail_size", "16 to 64 pixels, or left out"),
        ({"thumbnail_size": 65}, "thumbnail_size", "16 to 64 pixels, or left out"),
    ],
)
def test_a_way_to_write_files_that_there_is_not(
    output: dict[str, int], field: str, remedy: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        resolve(request(output=pb.ImageOutput(**output)))  # type: ignore[arg-type]
    [violation] = refused.value.violations
    assert violation.field == f"image.output.{field}" and remedy in violation.description


def test_how_files_are_written_is_filled_in_and_reaches_the_agent() -> None:
    assert resolve(request()).spec.output == ImageOutput()
    given = pb.ImageOutput(format=pb.IMAGE_FORMAT_WEBP, thumbnail_size=32, omit_metadata=True)
    generation = resolve(request(output=given))
    wanted = ImageOutput(ImageFormat.WEBP, 90, thumbnail_size=32, omit_metadata=True)
    assert generation.spec.output == wanted
    assert generation_from(generation_to(generation)).spec == generation.spec


def test_the_path_says_where_the_request_lies() -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        resolve(request(width=0), path="create.")
    assert [v.field for v in refused.value.violations] == ["create.image.width"]


def test_an_unknown_model_and_a_wrong_or_missing_spec() -> None:
    assert fields_at_fault(request(model="nobody")) == ["model"]
    assert fields_at_fault(pb.CreateGenerationRequest(model="toy")) == ["spec"]
    video = pb.CreateGenerationRequest(model="toy", video=pb.VideoSpec(prompt="x"))
    assert fields_at_fault(video) == ["spec"]


@given(
    st.builds(
        pb.ImageSpec,
        prompt=st.text(),
        negative_prompt=st.text(),
        width=st.integers(-(2**31), 2**31 - 1),
        steps=st.integers(-(2**31), 2**31 - 1),
        guidance=st.floats(),
        seed=st.integers(-(2**63), 2**63 - 1),
        sampler=st.text(),
    )
)
def test_any_values_are_refused_or_within_the_limits(image: pb.ImageSpec) -> None:
    card = toy_card()
    try:
        spec = resolve(pb.CreateGenerationRequest(model="toy", image=image)).spec
    except InvalidArgumentError as refused:
        assert refused.violations
        return
    for name, limit in card.limits.items():
        assert limit.violation(getattr(spec, name), name) is None
    assert spec.sampler in card.samplers and 0 <= spec.seed <= MAX_SEED


def test_the_same_request_has_the_same_hash_and_another_has_not() -> None:
    assert resolve(request()).request_hash == resolve(request()).request_hash
    assert resolve(request()).request_hash != resolve(request(steps=5)).request_hash


@pytest.mark.parametrize("bad", ["", "x", "../etc/passwd", ID[:-1], ID.replace("7", "4", 1)])
def test_a_malformed_id_is_refused(bad: str) -> None:
    with pytest.raises(InvalidArgumentError):
        checked_id(bad)
    assert checked_id(ID.upper()) == ID


def test_a_page_token_belongs_to_its_query() -> None:
    query = pb.ListGenerationsRequest(filter=pb.GenerationFilter(model="toy"))
    assert page_of(query, "local") == (50, "")
    token = page_token(query, "local", ID)
    next_page = pb.ListGenerationsRequest(filter=query.filter, page_token=token, page_size=7)
    assert page_of(next_page, "local") == (7, ID)
    for other in (
        pb.ListGenerationsRequest(page_token=token),
        pb.ListGenerationsRequest(page_token="nonsense"),
        pb.ListGenerationsRequest(page_token="é"),
        pb.ListGenerationsRequest(page_token="W10="),
        pb.ListGenerationsRequest(page_token=b64encode(b"[" * 100_000).decode()),
        pb.ListGenerationsRequest(filter=pb.GenerationFilter(model="a\0b")),
        pb.ListGenerationsRequest(page_size=-1),
        pb.ListGenerationsRequest(page_size=1001),
        pb.ListGenerationsRequest(filter=pb.GenerationFilter(states=[0])),
    ):
        with pytest.raises(InvalidArgumentError):
            page_of(other, "local")
    with pytest.raises(InvalidArgumentError):
        page_of(next_page, "other tenant")
