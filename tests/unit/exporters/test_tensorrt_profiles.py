"""Bounds of every input's shape from picture sizes and rows."""

import pytest

from exporters.spec import FREE, Component, ExportSpec, Tensor
from exporters.tensorrt.profiles import Bounds, lines, merged, profiles

SPEC = ExportSpec("toy", tokens=77, width=768, channels=4, downscale=8, max_batch_size=8)


def test_one_profile_a_size_with_free_rows_and_fixed_sides():
    small, large = profiles(SPEC.denoiser, [(512, 512), (768, 512)], downscale=8)

    assert small["latents"] == Bounds((1, 4, 64, 64), (8, 4, 64, 64), (8, 4, 64, 64))
    assert large["denoised_prev"] == Bounds((1, 4, 96, 64), (8, 4, 96, 64), (8, 4, 96, 64))
    assert large["text_embeddings"].most == (8, 2, 77, 768)
    assert small.keys() == {tensor.name for tensor in SPEC.denoiser.inputs}


def test_pictures_have_pixels_where_latents_have_latents():
    encoder = Component("e", (Tensor("images", "UINT8", (FREE, FREE, 3)),), (), max_batch_size=2)

    (profile,) = profiles(encoder, [(768, 512)], downscale=8)

    assert profile["images"].most == (2, 768, 512, 3)


def test_a_graph_without_free_sides_has_one_profile_whatever_the_sizes():
    (only,) = profiles(SPEC.text_encoder, [(512, 512), (768, 768)], downscale=8)

    assert only == {"input_ids": Bounds((1, 77), (8, 77), (8, 77))}


def test_the_same_size_twice_is_one_profile():
    assert len(profiles(SPEC.vae_decoder, [(512, 512), (512, 512)], downscale=8)) == 1


def test_kernels_may_be_chosen_for_fewer_rows_than_the_most():
    (profile,) = profiles(SPEC.text_encoder, [], downscale=8, best_rows=2)

    assert profile["input_ids"].best == (2, 77)


@pytest.mark.parametrize(
    ("sizes", "best_rows", "message"),
    [
        ([], None, "name at least one size"),
        ([(512, 516)], None, "size 512x516: both must be multiples of 8"),
        ([(0, 512)], None, "size 0x512: both must be multiples of 8"),
        ([(512, 512)], 9, "must be 1 to 8"),
        ([(512, 512)], 0, "must be 1 to 8"),
    ],
)
def test_what_cannot_be_bounded_is_refused(sizes, best_rows, message):
    with pytest.raises(ValueError, match=message):
        profiles(SPEC.denoiser, sizes, downscale=8, best_rows=best_rows)


def test_other_axes_than_the_sides_may_not_be_free():
    video = Component("v", (Tensor("x", "FP32", (4, FREE, FREE, FREE)),), (), max_batch_size=2)

    with pytest.raises(ValueError, match=r"v\.x: only height and width may be free"):
        profiles(video, [(64, 64)], downscale=8)


def test_bounds_out_of_order_are_no_bounds():
    with pytest.raises(ValueError, match="not in order"):
        Bounds((1, 4), (9, 4), (8, 4))


def test_merged_profiles_span_all_and_are_best_where_the_first_is():
    several = profiles(
        SPEC.vae_decoder, [(512, 768), (768, 512), (1024, 1024)], downscale=8, best_rows=4
    )

    (one,) = merged(several)

    assert one["latents"] == Bounds((1, 4, 64, 64), (4, 4, 64, 96), (8, 4, 128, 128))


def test_a_profile_is_told_in_a_line_for_each_input():
    (profile,) = profiles(SPEC.vae_decoder, [(512, 768)], downscale=8)

    assert list(lines(profile)) == ["latents 1x4x64x96 .. 8x4x64x96"]
