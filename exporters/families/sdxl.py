"""Stable Diffusion XL and its Turbo: two text encoders, a pooled vector, and sizes as numbers.

The two tokenizers of SDXL are one vocabulary padded in two ways, so one list of ids is enough: the
second is made of the first inside the graph. The pooled vector travels as one more row of the
embeddings, and the sizes that the UNet is told (original, crop, target) are those of the latents,
as diffusers does for who asks for nothing else. So the agent feeds what it feeds every model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import diffusers
import torch
from torch import Tensor, nn

from exporters.checkpoint import Checkpoint
from exporters.errors import CheckpointError
from exporters.families.family import Defaults, Family, Graph, Kept
from exporters.families.sd import KL_GRAPHS, SD, ask, diffusion_samplers, unet_spec
from exporters.spec import ExportSpec
from exporters.step_graph import DenoiserStep


def padded_with(ids: Tensor, eos: int, pad: int) -> Tensor:
    """int64 (N, tokens), all after the first eos replaced by `pad`."""
    ends = (ids == eos).long()
    after = (ends.cumsum(dim=1) - ends) > 0
    return torch.where(after, pad, ids)


class TwoTextEncoders(nn.Module):
    """Prompt -> the last hidden states but one of both encoders, and the pooled vector below."""

    def __init__(self, first: nn.Module, second: nn.Module, eos: int, pad: int, zeroed: bool):
        """`zeroed`: an empty text is all zeros, as the model was trained to do without a prompt."""
        super().__init__()
        self.first, self.second = first, second
        self.eos, self.pad, self.zeroed = eos, pad, zeroed

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 (N, tokens) -> float32 (N, tokens + 1, width)."""
        other = padded_with(input_ids, self.eos, self.pad)
        one = self.first(input_ids, output_hidden_states=True).hidden_states[-2]
        two = self.second(other, output_hidden_states=True)
        states = torch.cat([one, two.hidden_states[-2]], dim=-1).float()
        pooled = two.text_embeds.float()[:, None]
        rows = torch.cat([states, widened(pooled, states.shape[-1])], dim=1)
        if self.zeroed:
            rows = rows * (input_ids[:, 1] != self.eos)[:, None, None]
        return rows


def widened(rows: Tensor, width: int) -> Tensor:
    """(N, n, w) -> (N, n, width), zeros added."""
    return nn.functional.pad(rows, (0, width - rows.shape[-1]))


class SizedUNet(nn.Module):
    """SDXL's UNet as DenoiserStep calls it."""

    def __init__(self, unet: nn.Module, pooled: int, downscale: int) -> None:
        super().__init__()
        self.unet = unet
        self.pooled = pooled
        self.downscale = downscale

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor) -> Tensor:
        one = torch.ones_like(timestep)
        height, width = (one * (side * self.downscale) for side in sample.shape[-2:])
        none = torch.zeros_like(timestep)
        added = {
            # Joined with float32 by the UNet, which torch widens silently and ONNX refuses.
            "text_embeds": text[:, -1, : self.pooled].float(),
            "time_ids": torch.stack([height, width, none, none, height, width], dim=1),
        }
        return self.unet(
            sample,
            timestep,
            encoder_hidden_states=text[:, :-1],
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


def _spec(checkpoint: Checkpoint, name: str) -> ExportSpec:
    unet = checkpoint.configs["unet"]
    if unet.get("addition_embed_type") != "text_time":
        raise CheckpointError(
            f"{checkpoint.folder / 'unet' / 'config.json'}: addition_embed_type is"
            f" {unet.get('addition_embed_type')!r}, not 'text_time'"
        )
    checkpoint.require_same_vocabulary("tokenizer", "tokenizer_2")
    alone = unet_spec(checkpoint, name)
    second = checkpoint.configs["text_encoder_2"]
    return replace(
        alone, tokens=alone.tokens + 1, ids=alone.tokens,
        width=alone.width + int(second["hidden_size"]),
    )  # fmt: skip


def _text_encoder(
    parts: Mapping[str, nn.Module], checkpoint: Checkpoint, spec: ExportSpec
) -> nn.Module:
    eos, _ = checkpoint.special_ids("tokenizer")
    _, pad = checkpoint.special_ids("tokenizer_2")
    zeroed = bool(checkpoint.index.get("force_zeros_for_empty_prompt", True))
    return TwoTextEncoders(parts["text_encoder"], parts["text_encoder_2"], eos, pad, zeroed)


def _denoiser(guided: bool) -> Graph:
    def build(
        parts: Mapping[str, nn.Module], checkpoint: Checkpoint, spec: ExportSpec
    ) -> nn.Module:
        pooled = int(checkpoint.configs["text_encoder_2"]["projection_dim"])
        unet = SizedUNet(parts["unet"], pooled, spec.downscale)
        return DenoiserStep(unet, guided=guided, masking=spec.masking)

    return Graph(lambda checkpoint: ("unet",), build)


def _graphs(guided: bool) -> dict[str, Graph]:
    text = Graph(lambda checkpoint: ("text_encoder", "text_encoder_2"), _text_encoder)
    return {"text_encoder": text, "denoiser": _denoiser(guided), **KL_GRAPHS}


SDXL = replace(
    SD,
    name="sdxl",
    pipelines=("StableDiffusionXLPipeline",),
    pipeline=lambda: diffusers.StableDiffusionXLPipeline,
    parts=(*SD.parts, "text_encoder_2", "tokenizer_2"),
    tokenizers=("tokenizer",),
    spec=_spec,
    graphs=_graphs(guided=True),
    samplers=("euler", *(name for name in diffusion_samplers() if name != "euler")),
    kept=(
        *SD.kept,
        Kept(
            "activations of SDXL's autoencoder overflow a half (its config says force_upcast)",
            roles=("vae_decoder", "vae_encoder"),
        ),
    ),
    ask=ask,
)

TURBO: Family = replace(
    SDXL,
    name="sdxl-turbo",
    fits=lambda configs: False,
    graphs=_graphs(guided=False),
    guided=False,
    samplers=("euler_ancestral", "euler", "ddim"),
    defaults=Defaults(1, 1.0, max_steps=8, max_guidance=1.0, presets={"fine": 4}),
    scheduler=lambda schedule: diffusers.EulerDiscreteScheduler.from_config(
        schedule, timestep_spacing="trailing"
    ),
)
