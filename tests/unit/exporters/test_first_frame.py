"""What a clip's encoder makes of one picture: triton_repo/README.md tells agents to count on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
diffusers = pytest.importorskip("diffusers")

from exporters.families.wan import CHUNK  # noqa: E402 - it needs both
from exporters.measure import open_session  # noqa: E402
from exporters.step_graph import LatentScale, VaeEncoder  # noqa: E402

REPOSITORY = Path("triton_repo")


def encoded(model: str, images: np.ndarray) -> np.ndarray:
    session = open_session(REPOSITORY / f"{model}__vae_encoder" / "1" / "model.onnx")
    return session.run(None, {"images": images})[0]


def test_tiny_videos_encoder_makes_every_frame_by_itself() -> None:
    """A picture repeated over the clip: its latents, as often, as tiny-image's encoder has them."""
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    clip = np.random.default_rng(1).integers(0, 256, (1, 8, 64, 64, 3), np.uint8)
    clip[:, 0] = picture

    alone = encoded("tiny_image", picture)
    repeated = encoded("tiny_video", picture[:, None].repeat(8, axis=1))
    mixed = encoded("tiny_video", clip)

    assert repeated.shape == (1, 8 * 4, 16, 16)
    np.testing.assert_allclose(repeated, np.tile(alone, (1, 8, 1, 1)), atol=1e-5)
    np.testing.assert_allclose(mixed[:, :4], alone, atol=1e-5)  # whatever follows it


def test_wans_first_latent_frame_is_the_first_pictures_alone() -> None:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
    ).eval()
    encoder = VaeEncoder(vae, LatentScale([1.0] * 4, [0.0] * 4, axes=3))
    clips = torch.randint(0, 256, (2, 1 + 2 * CHUNK, 16, 16, 3), dtype=torch.uint8)
    clips[1, 0] = clips[0, 0]

    with torch.inference_mode():
        one, other = encoder(clips)

    torch.testing.assert_close(one[:, 0], other[:, 0], atol=1e-5, rtol=0)
    assert float((one[:, 1] - other[:, 1]).abs().max()) > 1e-3
