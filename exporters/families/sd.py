"""Stable Diffusion 1 and 2, and what was distilled from them: LCM and Turbo.

One text encoder, a UNet, a KL autoencoder. A distilled model is asked once a step: LCM is told the
guidance as a second embedding of time, Turbo knows none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from exporters.checkpoint import Checkpoint
from exporters.errors import CheckpointError
from exporters.families.family import GATES, NORMS, Defaults, Family, Graph
from exporters.spec import ExportSpec, Masking
from exporters.step_graph import DenoiserStep, LatentScale, VaeDecoder, VaeEncoder

_ADDED_IDS = ("text", None)


class TextEncoder(nn.Module):
    """Prompt -> embeddings, with the final layer norm, as the denoiser was trained on."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 (N, tokens) -> float32 (N, tokens, width)."""
        return self.encoder(input_ids)[0].float()


class UNet(nn.Module):
    """diffusers' UNet2DConditionModel as DenoiserStep calls it."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.guidance_width = unet.config.time_cond_proj_dim

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor) -> Tensor:
        condition = None
        if self.guidance_width:
            condition = guidance_embedding(guidance, self.guidance_width).to(sample.dtype)
        return self.unet(
            sample,
            timestep,
            timestep_cond=condition,
            encoder_hidden_states=text,
            return_dict=False,
        )[0]


def guidance_embedding(guidance: Tensor, width: int) -> Tensor:
    """float32 (N,) -> (N, width): how LCM is told its guidance (arXiv:2310.04378, section 4.2)."""
    half = width // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
    angles = ((guidance - 1) * 1000.0)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def unet_spec(checkpoint: Checkpoint, name: str, channels: int = 0) -> ExportSpec:
    """Sizes that a UNet with a KL autoencoder has; the text's are the first encoder's.

    Args:
        channels: of the latents, where they are not the autoencoder's.
    """
    unet, vae, text = (checkpoint.configs[part] for part in ("unet", "vae", "text_encoder"))
    channels = channels or int(vae["latent_channels"])
    return ExportSpec(
        name=name,
        tokens=int(text["max_position_embeddings"]),
        width=int(text["hidden_size"]),
        channels=channels,
        downscale=2 ** (len(vae["block_out_channels"]) - 1),
        encodes=True,
        masking=_masking(checkpoint, int(unet["in_channels"]), channels),
    )


def _masking(checkpoint: Checkpoint, taken: int, channels: int) -> Masking:
    if taken == channels:
        return ""
    if taken == 2 * channels + 1:
        return "concat"
    raise CheckpointError(
        f"{checkpoint.folder / 'unet' / 'config.json'}: in_channels is {taken}; only {channels}"
        f" (latents) and {2 * channels + 1} (latents, mask and masked picture) are known"
    )


def _spec(checkpoint: Checkpoint, name: str) -> ExportSpec:
    added = checkpoint.configs["unet"].get("addition_embed_type")
    if added not in _ADDED_IDS:
        raise CheckpointError(
            f"{checkpoint.folder / 'unet' / 'config.json'}: the denoiser wants"
            f" addition_embed_type={added!r}; of this family only text alone is fed (try --family)"
        )
    return unet_spec(checkpoint, name)


def unet_multiple(checkpoint: Checkpoint) -> int:
    """The halves of a UNet must meet."""
    return 2 ** (len(checkpoint.configs["unet"]["block_out_channels"]) - 1)


def kl_scale(vae: Mapping[str, Any]) -> LatentScale:
    return LatentScale(vae.get("scaling_factor", 0.18215), vae.get("shift_factor") or 0.0, axes=2)


KL_GRAPHS = {
    "vae_decoder": Graph(
        lambda checkpoint: ("vae",),
        lambda parts, checkpoint, spec: VaeDecoder(
            parts["vae"], kl_scale(checkpoint.configs["vae"])
        ),
    ),
    "vae_encoder": Graph(
        lambda checkpoint: ("vae",),
        lambda parts, checkpoint, spec: VaeEncoder(
            parts["vae"], kl_scale(checkpoint.configs["vae"])
        ),
    ),
}


def _graphs(guided: bool) -> dict[str, Graph]:
    return {
        "text_encoder": Graph(
            lambda checkpoint: ("text_encoder",),
            lambda parts, checkpoint, spec: TextEncoder(parts["text_encoder"]),
        ),
        "denoiser": Graph(
            lambda checkpoint: ("unet",),
            lambda parts, checkpoint, spec: DenoiserStep(
                UNet(parts["unet"]), guided=guided, masking=spec.masking
            ),
        ),
        **KL_GRAPHS,
    }


def diffusion_samplers() -> tuple[str, ...]:
    return ("ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras")


def ddim(schedule: Mapping[str, Any]) -> Any:
    """diffusers' own. It would clip where another scheduler's config does not say that it does not;
    a config that says that it does is refused (card.noise_schedule)."""
    return diffusers.DDIMScheduler.from_config(schedule, clip_sample=False)


def unet_native(checkpoint: Checkpoint, spec: ExportSpec) -> tuple[int, int]:
    side = int(checkpoint.configs["unet"]["sample_size"]) * spec.downscale
    return side, side


def ask(pipeline: Any, prompts: list[str], spec: ExportSpec, **more: Any) -> Any:
    return pipeline(prompts, output_type="np", **more).images


SD = Family(
    name="sd",
    kind="image",
    pipelines=("StableDiffusionPipeline",),
    pipeline=lambda: diffusers.StableDiffusionPipeline,
    parts=("text_encoder", "tokenizer", "unet", "vae", "scheduler"),
    spec=_spec,
    graphs=_graphs(guided=True),
    multiple=unet_multiple,
    native=unet_native,
    samplers=diffusion_samplers(),
    defaults=Defaults(steps=30, guidance=7.5, presets={"draft": 8, "fine": 40}),
    scheduler=ddim,
    ask=ask,
    kept=(NORMS,),
    gates=GATES,
)


def _ask_inpaint(
    pipeline: Any, prompts: list[str], spec: ExportSpec, *, mask: Tensor, known: Tensor, **more: Any
) -> Any:
    """With the masked picture's latents given, since the pipeline would draw them by chance."""
    given = {"mask_image": mask, "masked_image_latents": known, "strength": 1.0}
    blank = torch.zeros(len(prompts), 3, more["height"], more["width"])
    return ask(pipeline, prompts, spec, image=blank, **given, **more)


# The denoiser sees the mask and the masked picture beside the latents: nine channels.
INPAINT = replace(
    SD,
    name="sd-inpaint",
    pipelines=("StableDiffusionInpaintPipeline",),
    pipeline=lambda: diffusers.StableDiffusionInpaintPipeline,
    fits=lambda configs: configs["unet"]["in_channels"] != configs["vae"]["latent_channels"],
    ask=_ask_inpaint,
)

LCM = replace(
    SD,
    name="lcm",
    pipelines=("LatentConsistencyModelPipeline", "StableDiffusionPipeline"),
    pipeline=lambda: diffusers.LatentConsistencyModelPipeline,
    fits=lambda configs: bool(configs["unet"].get("time_cond_proj_dim")),
    graphs=_graphs(guided=False),
    guided=False,
    samplers=("lcm",),
    defaults=Defaults(4, 8.0, max_steps=50, presets={"draft": 2, "fine": 8}),
    scheduler=lambda schedule: diffusers.LCMScheduler.from_config(schedule, clip_sample=False),
)

# Nothing in the folder of a Turbo says that it is one: ask for it by name.
TURBO = replace(
    SD,
    name="sd-turbo",
    fits=lambda configs: False,
    graphs=_graphs(guided=False),
    guided=False,
    samplers=("euler", "euler_ancestral", "ddim"),
    defaults=Defaults(1, 1.0, max_steps=8, max_guidance=1.0, presets={"fine": 4}),
    scheduler=lambda schedule: diffusers.EulerDiscreteScheduler.from_config(
        schedule, timestep_spacing="trailing"
    ),
)
