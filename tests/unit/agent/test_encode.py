"""Every format shows the picture, and tells how it was made or nothing."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import ExifTags, Image

from agent.encode import KINDS, encode, finish, thumbnail
from atelier.output import Crop, ImageFormat, ImageOutput, Resize
from exporters.tiny.checker import measure
from exporters.tiny.scenes import Scene, render

PIXELS = render(Scene("cross", "yellow", "purple"))
PARAMETERS = {"prompt": 'a "yellow" cross, 円 😀', "negative_prompt": "", "seed": 7}
LOSSY = [f for f in ImageFormat if f is not ImageFormat.PNG]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def told(image: Image.Image) -> dict[str, object]:
    """What a file says of how it was made, as other programs read it."""
    if image.format == "PNG":
        return dict(json.loads(image.info["parameters"]))
    exif = image.getexif()
    assert exif[ExifTags.Base.Software] == "Atelier"
    comment = exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
    assert comment[:8] == b"UNICODE\0"
    assert exif.tobytes()[6:8] == b"MM", "the comment's byte order is the file's"
    return dict(json.loads(comment[8:].decode("utf-16-be")))


@pytest.mark.parametrize("format_", ImageFormat)
def test_a_file_shows_the_picture_and_tells_of_it(format_: ImageFormat) -> None:
    output = ImageOutput(format_, 0 if format_ is ImageFormat.PNG else 90)
    image = opened(encode(PIXELS, output, PARAMETERS))
    assert (image.format, image.size) == (format_.value, (64, 64))
    assert Image.MIME[format_.value] == KINDS[format_].content_type
    seen = measure(np.asarray(image.convert("RGB")))
    assert seen and (seen.shape, seen.colour, seen.background) == ("cross", "yellow", "purple")
    assert told(image) == PARAMETERS
    assert encode(PIXELS, output, PARAMETERS) == encode(PIXELS, output, PARAMETERS)


@pytest.mark.parametrize("format_", ImageFormat)
def test_a_file_tells_nothing_where_nobody_wants_that(format_: ImageFormat) -> None:
    data = encode(PIXELS, ImageOutput(format_, omit_metadata=True), None)
    image = opened(data)
    assert not dict(image.getexif()) and "parameters" not in image.info
    assert b"Atelier" not in data and b"yellow" not in data


@pytest.mark.parametrize("format_", LOSSY)
def test_more_quality_is_nearer_and_larger(format_: ImageFormat) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    sizes, errors = [], []
    for quality in (1, 50, 100):
        data = encode(noise, ImageOutput(format_, quality), None)
        sizes.append(len(data))
        shown = np.asarray(opened(data).convert("RGB"))
        errors.append(float(np.abs(shown.astype(int) - noise).mean()))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    assert sizes[0] < sizes[2] / 2


@pytest.mark.parametrize("format_", ImageFormat)
def test_a_small_copy_keeps_the_proportions_and_tells_nothing(format_: ImageFormat) -> None:
    wide = np.concatenate([PIXELS, PIXELS], axis=1)
    small = opened(thumbnail(wide, ImageOutput(format_, thumbnail_size=32)))
    assert (small.format, small.size) == (format_.value, (32, 16))
    assert not dict(small.getexif())


@pytest.mark.parametrize("format_", LOSSY)
def test_the_longest_prompt_that_must_be_escaped_still_makes_a_file(format_: ImageFormat) -> None:
    long = {**PARAMETERS, "prompt": "\x01" * 4_000, "negative_prompt": "\x02" * 4_000}
    found = told(opened(encode(PIXELS, ImageOutput(format_, 90), long)))
    assert found == {"seed": 7}, "the prompts are left out, the rest is there"


def test_a_crop_is_cut_out_before_anything_is_resized() -> None:
    left = ImageOutput(crop=Crop(0, 16, 32, 48), resize=Resize(64, 0))
    large = finish(PIXELS, left)
    assert large.shape == (96, 64, 3)  # 32x48 in the same proportions
    cut = finish(PIXELS, ImageOutput(crop=Crop(0, 16, 32, 48)))
    np.testing.assert_array_equal(cut, PIXELS[16:64, 0:32])
    # Of a flat colour every size is that colour: nothing of the other half came in.
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    assert not finish(halves, left).any()


@pytest.mark.parametrize(
    ("resize", "size"),
    [
        (Resize(128, 96), (128, 96)),
        (Resize(16, 0), (16, 8)),
        (Resize(0, 16), (32, 16)),
        (Resize(33, 0), (33, 16)),  # 16.5: to the nearest even
        (Resize(1, 0), (1, 1)),  # never nothing
    ],
)
def test_a_side_that_is_not_given_follows_the_other(resize: Resize, size: tuple[int, int]) -> None:
    wide = np.concatenate([PIXELS, PIXELS], axis=1)
    output = ImageOutput(resize=resize, thumbnail_size=16)
    made = finish(wide, output)
    assert made.shape == (size[1], size[0], 3)
    assert opened(encode(made, output, None)).size == size
    assert max(opened(thumbnail(made, output)).size) == min(16, max(size))


def test_a_picture_that_was_resized_still_shows_what_it_showed() -> None:
    made = finish(
        finish(PIXELS, ImageOutput(resize=Resize(256, 0))), ImageOutput(resize=Resize(64, 64))
    )
    error = float(((made.astype(float) - PIXELS) ** 2).mean())
    assert 10 * np.log10(255**2 / error) > 35
    assert finish(PIXELS, ImageOutput()) is PIXELS
