"""tiny-video: a clip's frames side by side in the channels of one UNet (exporters/tiny)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from exporters.checkpoint import Checkpoint
from exporters.families.family import Family, Graph
from exporters.families.sd import SD, kl_scale, unet_spec
from exporters.spec import ExportSpec
from exporters.step_graph import VaeDecoder, VaeEncoder


class FrameDecoder(VaeDecoder):
    """Latents -> frames, each decoded by itself."""

    frames: int

    def forward(self, latents: Tensor) -> Tensor:
        """float32 (N, T*C, h, w) -> uint8 (N, T, H, W, 3)."""
        single = latents.unflatten(1, (self.frames, -1)).flatten(0, 1)
        return self.levels(single).unflatten(0, (-1, self.frames)).to(torch.uint8)


class FrameEncoder(VaeEncoder):
    """Frames -> latents, each encoded by itself."""

    frames: int

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, T, H, W, 3) -> float32 (N, T*C, h, w)."""
        latents = super().forward(images.float().flatten(0, 1))
        return latents.unflatten(0, (-1, self.frames)).flatten(1, 2)


def _spec(checkpoint: Checkpoint, name: str) -> ExportSpec:
    frames = int(checkpoint.index["frames"])
    channels = int(checkpoint.configs["unet"]["in_channels"])
    single = unet_spec(checkpoint, name, channels)
    return replace(single, output_frames=frames, first_frame=True)


def _framed(kind: type[FrameDecoder] | type[FrameEncoder]) -> Graph:
    def build(parts: Any, checkpoint: Checkpoint, spec: ExportSpec) -> nn.Module:
        made = kind(parts["vae"], kl_scale(checkpoint.configs["vae"]))
        made.frames = spec.output_frames
        return made

    return Graph(lambda checkpoint: ("vae",), build)


def _pipeline() -> type:
    from exporters.tiny.video_pipeline import TinyVideoPipeline

    return TinyVideoPipeline


def _ask(pipeline: Any, prompts: list[str], spec: ExportSpec, **more: Any) -> Any:
    more = {name: value for name, value in more.items() if name not in ("height", "width")}
    return pipeline(prompts, **more).frames / 255


TINY_VIDEO: Family = replace(
    SD,
    name="tiny-video",
    kind="video",
    pipelines=("TinyVideoPipeline",),
    pipeline=_pipeline,
    spec=_spec,
    graphs={
        **SD.graphs,
        "vae_decoder": _framed(FrameDecoder),
        "vae_encoder": _framed(FrameEncoder),
    },
    ask=_ask,
)
