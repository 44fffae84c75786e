"""The files say how they were made, and the same picture is the same bytes."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from agent.encode import encode_png
from atelier.spec import ImageSpec
from tests.support.cards import toy_card

SPEC = ImageSpec(
    prompt='a "red" circle, 円',
    negative_prompt="blue",
    width=16,
    height=8,
    steps=20,
    guidance=1.5,
    seed=2**32 - 1,
    count=2,
    sampler="ddim",
)
PIXELS = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)


def test_pixels_and_parameters_survive() -> None:
    image = Image.open(io.BytesIO(encode_png(PIXELS, SPEC, 1, toy_card())))
    np.testing.assert_array_equal(np.asarray(image), PIXELS)
    assert image.text["Software"] == "Atelier"
    assert json.loads(image.text["parameters"]) == {
        "prompt": 'a "red" circle, 円',
        "negative_prompt": "blue",
        "seed": 0,  # seed + index, modulo 2^32
        "steps": 20,
        "guidance": 1.5,
        "sampler": "ddim",
        "size": "16x8",
        "model": "toy",
        "model_version": "sha256:0",
    }


def test_the_bytes_depend_on_nothing_else() -> None:
    first = encode_png(PIXELS, SPEC, 0, toy_card())
    strided = np.repeat(PIXELS, 2, axis=1)[:, ::2]  # another memory layout
    assert encode_png(strided, SPEC, 0, toy_card()) == first
    assert encode_png(PIXELS, SPEC, 1, toy_card()) != first
