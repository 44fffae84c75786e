"""Wan: text to video by a diffusion transformer over clips, taught by flow matching.

A clip's length is fixed at export (`--frames`): the autoencoder works through time piece by piece,
and the pieces are unrolled into its graph. Height and width stay free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
from torch import Tensor, nn

from exporters.checkpoint import Checkpoint
from exporters.errors import CheckpointError
from exporters.families.family import GATES, NORMS, Defaults, Family, Graph, Kept
from exporters.families.sd3 import T5_OUTPUT, flow, use_plain_attention
from exporters.spec import ExportSpec
from exporters.step_graph import DenoiserStep, LatentScale, VaeDecoder, VaeEncoder

TOKENS = 512  # of diffusers' pipeline
FRAMES = 81  # five seconds
FRAMES_PER_SECOND = 16
NATIVE = (832, 480)
CHUNK = 4  # pictures that the autoencoder takes at once, after the first


class TextEncoder(nn.Module):
    """Prompt -> UMT5's last hidden states, zero where the prompt has ended."""

    def __init__(self, encoder: nn.Module, pad: int) -> None:
        super().__init__()
        use_plain_attention(encoder)
        self.encoder = encoder
        self.pad = pad

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 (N, tokens) -> float32 (N, tokens, width)."""
        there = input_ids != self.pad
        states = self.encoder(input_ids, there.long()).last_hidden_state
        return states.float() * there[..., None]


class Transformer(nn.Module):
    """Wan's transformer as DenoiserStep calls it."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, sample: Tensor, timestep: Tensor, text: Tensor, guidance: Tensor) -> Tensor:
        return self.transformer(sample, timestep, text, return_dict=False)[0]


def _spec(checkpoint: Checkpoint, name: str) -> ExportSpec:
    index, vae = checkpoint.index, checkpoint.configs["vae"]
    for word in ("boundary_ratio", "expand_timesteps"):
        if index.get(word):
            raise CheckpointError(
                f"{checkpoint.folder / 'model_index.json'}: {word} (Wan 2.2) is not supported;"
                " a checkpoint of Wan 2.1 text to video is"
            )
    frames = checkpoint.options.frames or FRAMES
    in_time = 2 ** sum(vae.get("temperal_downsample", (False, True, True)))
    unit = max(in_time, CHUNK)
    if (frames - 1) % unit:
        raise CheckpointError(f"--frames {frames}: must be a multiple of {unit}, and one more")
    return ExportSpec(
        name=name,
        tokens=checkpoint.options.text_tokens or TOKENS,
        width=int(checkpoint.configs["transformer"]["text_dim"]),
        channels=int(vae["z_dim"]),
        downscale=2 ** (len(vae.get("dim_mult", (1, 2, 4, 4))) - 1),
        frames=(frames - 1) // in_time + 1,
        output_frames=frames,
        encodes=True,
    )


def _scale(checkpoint: Checkpoint) -> LatentScale:
    vae = checkpoint.configs["vae"]
    return LatentScale([1 / std for std in vae["latents_std"]], vae["latents_mean"], axes=3)


def _text_encoder(
    parts: Mapping[str, nn.Module], checkpoint: Checkpoint, spec: ExportSpec
) -> nn.Module:
    _, pad = checkpoint.special_ids("tokenizer")
    return TextEncoder(parts["text_encoder"], pad)


def _ask(pipeline: Any, prompts: list[str], spec: ExportSpec, **more: Any) -> Any:
    return pipeline(
        prompts,
        negative_prompt=[""] * len(prompts),
        num_frames=spec.output_frames,
        max_sequence_length=spec.tokens,
        output_type="np",
        **more,
    ).frames


WAN = Family(
    name="wan",
    kind="video",
    pipelines=("WanPipeline",),
    pipeline=lambda: diffusers.WanPipeline,
    parts=("text_encoder", "tokenizer", "transformer", "vae", "scheduler"),
    spec=_spec,
    graphs={
        "text_encoder": Graph(lambda checkpoint: ("text_encoder",), _text_encoder),
        "denoiser": Graph(
            lambda checkpoint: ("transformer",),
            lambda parts, checkpoint, spec: DenoiserStep(Transformer(parts["transformer"])),
        ),
        "vae_decoder": Graph(
            lambda checkpoint: ("vae",),
            lambda parts, checkpoint, spec: VaeDecoder(parts["vae"], _scale(checkpoint)),
        ),
        "vae_encoder": Graph(
            lambda checkpoint: ("vae",),
            lambda parts, checkpoint, spec: VaeEncoder(parts["vae"], _scale(checkpoint)),
        ),
    },
    multiple=lambda checkpoint: int(
        checkpoint.configs["transformer"].get("patch_size", (1, 2, 2))[1]
    ),
    native=lambda checkpoint, spec: NATIVE,
    samplers=("flow_euler",),
    defaults=Defaults(steps=50, guidance=5.0, presets={"draft": 20}),
    scheduler=flow,
    ask=_ask,
    kept=(
        NORMS,
        T5_OUTPUT,
        Kept(
            "Wan's autoencoder is published and run in FP32 (diffusers' own advice)",
            roles=("vae_decoder", "vae_encoder"),
        ),
    ),
    gates=GATES,
)
