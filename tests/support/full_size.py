"""Checkpoints of the true size with random weights, from configuration: nothing is fetched."""

from __future__ import annotations

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.support.checkpoints import DIFFUSION, clip_tokenizer


def sd15(folder: str) -> None:
    """Stable Diffusion 1.5: 860 M UNet, CLIP ViT-L/14 text encoder, KL autoencoder, in FP16."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        projection_dim=768,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    diffusers.StableDiffusionPipeline(
        text_encoder=CLIPTextModel(text).half(),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280),
        ).half(),
        vae=AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        ).half(),
        safety_checker=None,
        feature_extractor=None,
        scheduler=DDIMScheduler(**DIFFUSION),
        requires_safety_checker=False,
    ).save_pretrained(folder)
