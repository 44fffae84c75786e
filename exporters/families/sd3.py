"""Stable Diffusion 3: a diffusion transformer taught by flow matching, with up to three encoders.

Two CLIPs see the prompt's first ids, padded in two ways (see sdxl.py), and T5, if the folder has
it, sees ids of its own behind them. The embeddings' rows are CLIP's, T5's, and one with the pooled
vectors. Without T5, diffusers shows zeros to the transformer; they are added inside the step, so
that nobody carries them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from exporters.checkpoint import Checkpoint
from exporters.families.family import Defaults, Family, Graph, Kept
from exporters.families.sd import KL_GRAPHS, SD
from exporters.families.sdxl import padded_with, widened
from exporters.spec import ExportSpec
from exporters.step_graph import DenoiserStep

T5_TOKENS = 256  # of diffusers' pipeline, unless it is told otherwise


class ThreeTextEncoders(nn.Module):
    """Prompt -> CLIP's last hidden states but one, T5's last, and the pooled vectors below."""

    def __init__(
        self, encoders: list[nn.Module], eos: int, pads: tuple[int, int], spec: ExportSpec
    ):
        """`pads`: what each CLIP's ids are padded with."""
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        for encoder in encoders[2:]:
            use_plain_attention(encoder)
        self.eos, self.pads, self.width = eos, pads, spec.width
        self.clip_ids = int(encoders[0].config.max_position_embeddings)

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 (N, ids) -> float32 (N, tokens, width)."""
        states, pooled = [], []
        for encoder, pad in zip(self.encoders, self.pads, strict=False):
            ids = padded_with(input_ids[:, : self.clip_ids], self.eos, pad)
            out = encoder(ids, output_hidden_states=True)
            states.append(out.hidden_states[-2].float())
            pooled.append(out.text_embeds.float())
        rows = [widened(torch.cat(states, dim=-1), self.width)]
        if len(self.encoders) == 3:
            rows.append(self.encoders[2](input_ids[:, self.clip_ids :])[0].float())
        rows.append(widened(torch.cat(pooled, dim=-1)[:, None], self.width))
        return torch.cat(rows, dim=1)


def use_plain_attention(encoder: nn.Module) -> None:
    """T5's other attention is traced with strides that its decomposition does not have."""
    encoder.set_attn_implementation("eager")


class Transformer(nn.Module):
    """SD3's transformer as DenoiserStep calls it."""

    def __init__(self, transformer: nn.Module, pooled: int, absent: int) -> None:
        """`absent`: rows of zeros in T5's place."""
        super().__init__()
        self.transformer = transformer
        self.pooled = pooled
        self.absent = absent
        embed = transformer.pos_embed
        embed.cropped_pos_embed = partial(_cropped, embed)

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor) -> Tensor:
        return self.transformer(
            hidden_states=sample,
            timestep=timestep,
            encoder_hidden_states=nn.functional.pad(text[:, :-1], (0, 0, 0, self.absent)),
            pooled_projections=text[:, -1, : self.pooled],
            return_dict=False,
        )[0]


def _cropped(embed: Any, height: int, width: int) -> Tensor:
    """The middle of the table of positions, as diffusers' own method cuts it out.

    That one slices to (most - side)//2 + side, which the tracer rewrites to a division of a
    negative number, and ONNX rounds such towards zero: odd sides came out one too long.
    """
    most = embed.pos_embed_max_size
    table = embed.pos_embed.reshape(1, most, most, -1)
    down, across = (side // embed.patch_size for side in (height, width))
    rows = torch.arange(down) + (most - down) // 2
    columns = torch.arange(across) + (most - across) // 2
    return table[:, rows][:, :, columns].flatten(1, 2)


def _t5_tokens(checkpoint: Checkpoint) -> int:
    return checkpoint.options.text_tokens or T5_TOKENS


def _spec(checkpoint: Checkpoint, name: str) -> ExportSpec:
    checkpoint.require_same_vocabulary("tokenizer", "tokenizer_2")
    transformer, vae = checkpoint.configs["transformer"], checkpoint.configs["vae"]
    clip = int(checkpoint.configs["text_encoder"]["max_position_embeddings"])
    t5 = _t5_tokens(checkpoint) if "text_encoder_3" in checkpoint.configs else 0
    return ExportSpec(
        name=name,
        tokens=clip + t5 + 1,
        ids=clip + t5,
        width=int(transformer["joint_attention_dim"]),
        channels=int(transformer["in_channels"]),
        downscale=2 ** (len(vae["block_out_channels"]) - 1),
        encodes=True,
    )


def _text_parts(checkpoint: Checkpoint) -> tuple[str, ...]:
    named = ("text_encoder", "text_encoder_2", "text_encoder_3")
    return tuple(part for part in named if part in checkpoint.configs)


def _text_encoder(
    parts: Mapping[str, nn.Module], checkpoint: Checkpoint, spec: ExportSpec
) -> nn.Module:
    eos, first = checkpoint.special_ids("tokenizer")
    _, second = checkpoint.special_ids("tokenizer_2")
    encoders = [parts[part] for part in _text_parts(checkpoint)]
    return ThreeTextEncoders(encoders, eos, (first, second), spec)


def _denoiser(
    parts: Mapping[str, nn.Module], checkpoint: Checkpoint, spec: ExportSpec
) -> nn.Module:
    pooled = int(checkpoint.configs["transformer"]["pooled_projection_dim"])
    absent = 0 if "text_encoder_3" in checkpoint.configs else _t5_tokens(checkpoint)
    transformer = Transformer(parts["transformer"], pooled, absent)
    return DenoiserStep(transformer)


def flow(schedule: Mapping[str, Any]) -> Any:
    """diffusers' Euler for flow matching, with the shift that any of its schedulers names."""
    shift = schedule.get("shift", schedule.get("flow_shift", 1.0))
    return diffusers.FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=schedule.get("num_train_timesteps", 1000), shift=shift
    )


def _ask(pipeline: Any, prompts: list[str], spec: ExportSpec, **more: Any) -> Any:
    clip = int(pipeline.text_encoder.config.max_position_embeddings)
    t5 = spec.ids - clip or T5_TOKENS
    return pipeline(prompts, max_sequence_length=t5, output_type="np", **more).images


T5_OUTPUT = Kept(
    "the last linear layer of T5's blocks overflows a half (transformers keeps it so too)",
    names=("wo",),
)

SD3: Family = replace(
    SD,
    name="sd3",
    pipelines=("StableDiffusion3Pipeline",),
    pipeline=lambda: diffusers.StableDiffusion3Pipeline,
    parts=(
        "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer", "vae",
        "scheduler",
    ),
    optional=("text_encoder_3", "tokenizer_3"),
    tokenizers=("tokenizer", "tokenizer_3"),
    spec=_spec,
    graphs={
        "text_encoder": Graph(_text_parts, _text_encoder),
        "denoiser": Graph(lambda checkpoint: ("transformer",), _denoiser),
        **KL_GRAPHS,
    },
    multiple=lambda checkpoint: int(checkpoint.configs["transformer"]["patch_size"]),
    native=lambda checkpoint, spec: (
        int(checkpoint.configs["transformer"]["sample_size"]) * spec.downscale,
    ) * 2,
    samplers=("flow_euler",),
    defaults=Defaults(steps=28, guidance=7.0, presets={"draft": 12, "fine": 40}),
    scheduler=flow,
    ask=_ask,
    kept=(*SD.kept, T5_OUTPUT),
)  # fmt: skip
