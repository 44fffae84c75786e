"""Checkpoints of the true size with random weights, from configuration: nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from tests.support.checkpoints import DIFFUSION, clip_tokenizer

LENGTH = 77  # of a prompt's ids


def sd15(folder: str) -> None:
    """Stable Diffusion 1.5: 860 M UNet, CLIP ViT-L/14 text encoder, KL autoencoder, in FP16."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    with _halves():
        diffusers.StableDiffusionPipeline(
            text_encoder=CLIPTextModel(_clip_l(tokenizer)),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=64,
                cross_attention_dim=768,
                attention_head_dim=8,
                block_out_channels=(320, 640, 1280, 1280),
            ),
            vae=_vae(sample_size=512),
            safety_checker=None,
            feature_extractor=None,
            scheduler=DDIMScheduler(**DIFFUSION),
            requires_safety_checker=False,
        ).save_pretrained(folder)


def sdxl(folder: str) -> None:
    """Stable Diffusion XL: 2.6 G UNet, CLIP ViT-L/14 and ViT-bigG/14 (695 M), in FP16."""
    torch.manual_seed(0)
    first, second = _tokenizer(), _tokenizer(pad="!")
    with _halves():
        diffusers.StableDiffusionXLPipeline(
            text_encoder=CLIPTextModel(_clip_l(first)),
            tokenizer=first,
            text_encoder_2=CLIPTextModelWithProjection(
                _clip(
                    second,
                    hidden_size=1280,
                    intermediate_size=5120,
                    num_hidden_layers=32,
                    num_attention_heads=20,
                    hidden_act="gelu",
                    projection_dim=1280,
                )
            ),
            tokenizer_2=second,
            unet=UNet2DConditionModel(
                sample_size=128,
                block_out_channels=(320, 640, 1280),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
            vae=_vae(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
            ),
        ).save_pretrained(folder)


def _tokenizer(pad: str | None = None) -> CLIPTokenizer:
    tokenizer = clip_tokenizer(pad)
    tokenizer.model_max_length = LENGTH
    return tokenizer


def _clip_l(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return _clip(
        tokenizer,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
    )


def _clip(tokenizer: CLIPTokenizer, **sizes: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49_408,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )


def _vae(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        **more,
    )


@contextmanager
def _halves() -> Iterator[None]:
    """Weights are drawn as halves: SDXL's in singles would be 13 GB before they are saved."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
