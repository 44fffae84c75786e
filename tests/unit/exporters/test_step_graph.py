"""The algebra of a step, around models simple enough to know the answer by hand."""

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from exporters.families.sd import TextEncoder, guidance_embedding  # noqa: E402
from exporters.families.sdxl import padded_with  # noqa: E402
from exporters.step_graph import DenoiserStep, LatentScale, VaeDecoder, VaeEncoder  # noqa: E402

ROWS, CHANNELS, SIDE, TOKENS, WIDTH = 3, 4, 2, 5, 6


class ToyDenoiser(torch.nn.Module):
    """model(x, t, text) = x + t + mean(text): every argument shows in the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, sample, timestep, text, guidance):
        self.rows.append(len(sample))
        return sample + (timestep + text.mean(dim=(1, 2)))[:, None, None, None]


def inputs(rows: int = ROWS, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(rows, *shape, generator=rng)

    return {
        "latents": noise(CHANNELS, SIDE, SIDE),
        "denoised_prev": noise(CHANNELS, SIDE, SIDE),
        "timestep": noise(1),
        "text_embeddings": noise(2, TOKENS, WIDTH),
        "guidance": noise(1),
        "coefficients": noise(6),
    }


def by_hand(given: dict[str, torch.Tensor], row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One row of the formula in DenoiserStep's docstring, written as it stands there."""
    x, before = given["latents"][row], given["denoised_prev"][row]
    s, p, q, a, b, c = given["coefficients"][row]
    negative, positive = given["text_embeddings"][row].mean(dim=(1, 2))
    m_neg = s * x + given["timestep"][row] + negative
    m_pos = s * x + given["timestep"][row] + positive
    m = m_neg + given["guidance"][row] * (m_pos - m_neg)
    denoised = p * x + q * m
    return a * x + b * denoised + c * before, denoised


def test_every_row_follows_its_own_coefficients_timestep_and_guidance():
    given = inputs()

    after, denoised = DenoiserStep(ToyDenoiser())(**given)

    for row in range(ROWS):
        expected_after, expected_denoised = by_hand(given, row)
        torch.testing.assert_close(after[row], expected_after)
        torch.testing.assert_close(denoised[row], expected_denoised)


def test_both_halves_of_guidance_go_through_the_model_in_one_call():
    model = ToyDenoiser()

    DenoiserStep(model)(**inputs())

    assert model.rows == [2 * ROWS]


def test_a_row_does_not_depend_on_its_neighbours():
    step = DenoiserStep(ToyDenoiser())
    given = inputs()

    together = step(**given)
    alone = step(**{name: tensor[1:2] for name, tensor in given.items()})

    torch.testing.assert_close(together[0][1:2], alone[0])
    torch.testing.assert_close(together[1][1:2], alone[1])


def test_guidance_of_one_is_the_prompt_alone():
    given = inputs() | {"guidance": torch.ones(ROWS, 1)}
    other_negative = given["text_embeddings"].clone()
    other_negative[:, 0] = 17.0

    step = DenoiserStep(ToyDenoiser())
    after, _ = step(**given)
    same, _ = step(**given | {"text_embeddings": other_negative})

    torch.testing.assert_close(after, same, rtol=1e-4, atol=1e-4)


def test_ddim_of_a_perfect_model_lands_on_the_picture():
    """v-prediction at zero terminal SNR, one step: x is noise, v = -x0, so D = x0."""
    picture = torch.randn(1, CHANNELS, SIDE, SIDE)

    class Oracle(torch.nn.Module):
        def forward(self, sample, timestep, text, guidance):
            return -picture.expand_as(sample)

    given = inputs(rows=1) | {"coefficients": torch.tensor([[1.0, 0, -1, 0, 1, 0]])}

    after, denoised = DenoiserStep(Oracle())(**given)

    torch.testing.assert_close(after, picture)
    torch.testing.assert_close(denoised, picture)


def test_text_encoder_gives_the_last_hidden_state():
    class Encoder(torch.nn.Module):
        def forward(self, input_ids):
            return input_ids.float()[..., None], "pooled"

    out = TextEncoder(Encoder())(torch.arange(6).reshape(2, 3))

    assert out.shape == (2, 3, 1)


@pytest.mark.parametrize(
    ("value", "level"), [(-5.0, 0), (-1.0, 0), (0.0, 128), (0.5, 191), (1.0, 255), (9.0, 255)]
)
def test_decoder_scales_clamps_and_rounds_to_bytes(value: float, level: int):
    class Vae(torch.nn.Module):
        def decode(self, z, return_dict):
            return (z[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3),)

    latents = torch.full((2, CHANNELS, 3, 5), (value - 0.25) * 8)

    pixels = VaeDecoder(Vae(), LatentScale(8.0, 0.25, axes=2))(latents)

    assert pixels.shape == (2, 6, 10, 3)
    assert pixels.dtype == torch.uint8
    assert pixels.unique().tolist() == [level]


def test_encoder_undoes_what_the_decoder_does():
    class Vae(torch.nn.Module):
        def encode(self, x, return_dict):
            return (Posterior(x.repeat(1, 2, 1, 1)[:, :CHANNELS]),)

    class Posterior:
        def __init__(self, mean):
            self.mean = mean

        def mode(self):
            return self.mean

    images = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None, None].expand(3, 4, 6, 3)

    latents = VaeEncoder(Vae(), LatentScale(8.0, 0.25, axes=2))(images)

    assert latents.shape == (3, CHANNELS, 4, 6)
    expected = (torch.tensor([-1.0, -0.6, 1.0]) - 0.25) * 8
    torch.testing.assert_close(latents[:, 0, 0, 0], expected)


def test_latents_of_a_clip_are_scaled_by_channel():
    scale = LatentScale([2.0, 4.0], [1.0, -1.0], axes=3)
    latents = torch.randn(1, 2, 3, 4, 5)

    torch.testing.assert_close(scale.inward(latents)[:, 1], (latents[:, 1] + 1) * 4)
    torch.testing.assert_close(scale.outward(scale.inward(latents)), latents)


def test_a_distilled_model_is_asked_once_and_hears_its_guidance():
    class Asked(torch.nn.Module):
        def forward(self, sample, timestep, text, guidance):
            assert len(sample) == ROWS
            return (
                sample * guidance[:, None, None, None] + text.mean(dim=(1, 2))[:, None, None, None]
            )

    given = inputs() | {"coefficients": torch.tensor([[1.0, 0, 1, 0, 1, 0]] * ROWS)}

    _, denoised = DenoiserStep(Asked(), guided=False)(**given)

    text = given["text_embeddings"][:, 1].mean(dim=(1, 2))
    expected = given["latents"] * given["guidance"][..., None, None] + text[:, None, None, None]
    torch.testing.assert_close(denoised, expected)


def test_guidance_is_embedded_as_diffusers_embeds_it():
    diffusers = pytest.importorskip("diffusers")
    guidance = torch.tensor([1.0, 4.5, 8.0])
    embed = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding

    expected = embed(None, guidance - 1, embedding_dim=32)

    torch.testing.assert_close(guidance_embedding(guidance, 32), expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_takes_a_mask_sees_it_behind_the_latents():
    class Nine(torch.nn.Module):
        def forward(self, sample, timestep, text, guidance):
            assert sample.shape[1] == 2 * CHANNELS + 1
            return sample[:, CHANNELS : CHANNELS + 1].expand(-1, CHANNELS, -1, -1)

    given = inputs() | {"coefficients": torch.tensor([[1.0, 0, 1, 0, 1, 0]] * ROWS)}
    mask = torch.rand(ROWS, 1, SIDE, SIDE)

    _, denoised = DenoiserStep(Nine(), masking="concat")(
        **given, mask=mask, known=torch.zeros_like(given["latents"])
    )

    torch.testing.assert_close(denoised, mask.expand_as(denoised))


def test_one_list_of_ids_is_padded_in_two_ways():
    ids = torch.tensor([[5, 1, 2, 9, 9, 9], [5, 9, 9, 9, 9, 9], [5, 1, 2, 3, 4, 9]])

    other = padded_with(ids, eos=9, pad=0)

    assert other.tolist() == [[5, 1, 2, 9, 0, 0], [5, 9, 0, 0, 0, 0], [5, 1, 2, 3, 4, 9]]
