"""Small checkpoints of every family with random weights, in diffusers' folder format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from exporters.tiny.tokenizer import build_tokenizer

WORDS = ("red", "blue", "small", "circle", "square", "on", "a")
SIDE = 16  # of the latents that the UNets were "trained" on
DIFFUSION: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
}


def clip_tokenizer(pad: str | None = None) -> CLIPTokenizer:
    made = build_tokenizer(WORDS)
    made.model_max_length = 16
    if pad:
        made.pad_token = pad
    return made


def t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -4.0) for word in WORDS]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def _clip_config(tokenizer: CLIPTokenizer, width: int, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def _vae(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=[8, 16],
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        **more,
    )


def _unet(text_width: int, **more: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": SIDE,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": text_width,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DConditionModel(**(settings | more))


def _sd_parts(**unet: Any) -> dict[str, Any]:
    tokenizer = clip_tokenizer()
    return {
        "text_encoder": CLIPTextModel(_clip_config(tokenizer, 32)),
        "tokenizer": tokenizer,
        "unet": _unet(32, **unet),
        "vae": _vae(),
        "safety_checker": None,
        "feature_extractor": None,
    }


def sd(folder: Path) -> None:
    diffusers.StableDiffusionPipeline(
        **_sd_parts(), scheduler=DDIMScheduler(**DIFFUSION), requires_safety_checker=False
    ).save_pretrained(folder)


def sd_inpaint(folder: Path) -> None:
    """The kind whose denoiser sees mask and picture: nine channels."""
    diffusers.StableDiffusionInpaintPipeline(
        **_sd_parts(in_channels=9),
        scheduler=DDIMScheduler(**DIFFUSION),
        requires_safety_checker=False,
    ).save_pretrained(folder)


def sd_turbo(folder: Path) -> None:
    diffusers.StableDiffusionPipeline(
        **_sd_parts(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="trailing",
        ),
        requires_safety_checker=False,
    ).save_pretrained(folder)


def lcm(folder: Path) -> None:
    diffusers.LatentConsistencyModelPipeline(
        **_sd_parts(time_cond_proj_dim=32),
        scheduler=LCMScheduler(**DIFFUSION),
        requires_safety_checker=False,
    ).save_pretrained(folder)


def sdxl(folder: Path) -> None:
    first, second = clip_tokenizer(), clip_tokenizer(pad="!")
    diffusers.StableDiffusionXLPipeline(
        text_encoder=CLIPTextModel(_clip_config(first, 32)),
        tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(second, 32, projection_dim=24)),
        tokenizer_2=second,
        unet=_unet(
            64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            use_linear_projection=True,
        ),
        vae=_vae(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    ).save_pretrained(folder)


def sd3(folder: Path, *, t5: bool = True) -> None:
    first, second, third = clip_tokenizer(), clip_tokenizer(pad="!"), t5_tokenizer()
    config = T5Config(
        vocab_size=len(third), d_model=64, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    diffusers.StableDiffusion3Pipeline(
        text_encoder=CLIPTextModelWithProjection(_clip_config(first, 32, projection_dim=32)),
        tokenizer=first,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(second, 24, projection_dim=24)),
        tokenizer_2=second,
        text_encoder_3=T5EncoderModel(config) if t5 else None,
        tokenizer_3=third if t5 else None,
        transformer=SD3Transformer2DModel(
            sample_size=SIDE,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=56,
            pos_embed_max_size=24,
        ),
        vae=_vae(scaling_factor=1.5305, shift_factor=0.0609),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)


def wan(folder: Path) -> None:
    tokenizer = t5_tokenizer()
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    diffusers.WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(config),
        transformer=WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=32,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        vae=AutoencoderKLWan(
            base_dim=4,
            z_dim=4,
            dim_mult=[1, 1],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.1, -0.1, 0.2, 0.0],
            latents_std=[1.5, 0.8, 1.0, 1.2],
        ),
        scheduler=UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
    ).save_pretrained(folder)


MAKERS: Mapping[str, Callable[[Path], None]] = {
    "sd": sd,
    "sd-inpaint": sd_inpaint,
    "sd-turbo": sd_turbo,
    "lcm": lcm,
    "sdxl": sdxl,
    "sd3": sd3,
    "wan": wan,
}


def make(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of a family into `folder`, the same for the same seed."""
    torch.manual_seed(seed)
    MAKERS[kind](folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file of a checkpoint."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
