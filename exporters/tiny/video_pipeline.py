"""tiny-video as a pipeline of diffusers: prompts in, clips out.

diffusers has no pipeline whose denoiser takes a clip's frames in its channels, so this class says
what its folder means. It is the reference that an export is compared with: text encoder, sampler
and guidance are those of StableDiffusionPipeline, and only the shape of the latents (B, T*C, h, w)
and the decoding, frame by frame, differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


@dataclass
class TinyVideoOutput(BaseOutput):
    """`frames`: uint8 (B, T, H, W, 3), or float32 latents (B, T*C, h, w) if asked for."""

    frames: NDArray[Any]


class TinyVideoPipeline(DiffusionPipeline):
    """Text to clips of a fixed number of frames.

    Args:
        frames: T, frames of a clip; the denoiser has T times the channels of the autoencoder.
        frames_per_second: how fast a clip is meant to be shown.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        frames: int = 8,
        frames_per_second: int = 8,
    ) -> None:
        super().__init__()
        if unet.config.in_channels != frames * vae.config.latent_channels:
            raise ValueError(
                f"the denoiser has {unet.config.in_channels} channels, but {frames} frames of"
                f" {vae.config.latent_channels} channels need {frames * vae.config.latent_channels}"
            )
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler
        )
        self.register_to_config(frames=frames, frames_per_second=frames_per_second)

    @torch.no_grad()
    def __call__(
        self,
        prompt: Sequence[str],
        negative_prompt: Sequence[str] | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 1.5,
        generator: Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
    ) -> TinyVideoOutput:
        """Draw one clip a prompt.

        Args:
            negative_prompt: what guidance leads away from; nothing by default.
            generator: one a prompt, so that a clip does not depend on its neighbours.
            latents: the first noise, float32 (B, T*C, h, w), instead of one from `generator`.
            output_type: "np" for pixels or "latent".
        """
        negative = negative_prompt if negative_prompt is not None else [""] * len(prompt)
        text = torch.cat([self._encode(negative), self._encode(prompt)])
        latents = self._noise(len(prompt), generator) if latents is None else latents
        self.scheduler.set_timesteps(num_inference_steps)
        latents = latents * self.scheduler.init_noise_sigma
        for time in self.progress_bar(self.scheduler.timesteps):
            both = self.scheduler.scale_model_input(torch.cat([latents, latents]), time)
            away, towards = self.unet(both, time, encoder_hidden_states=text).sample.chunk(2)
            guided = away + guidance_scale * (towards - away)
            latents = self.scheduler.step(guided, time, latents).prev_sample
        if output_type == "latent":
            return TinyVideoOutput(frames=latents.numpy())
        return TinyVideoOutput(frames=self.decode(latents))

    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """float32 (B, T*C, h, w) -> uint8 (B, T, H, W, 3), each frame by itself."""
        frames = self.config.frames
        single = latents.unflatten(1, (frames, -1)).flatten(0, 1)
        pixels = self.vae.decode(single / self.vae.config.scaling_factor).sample
        levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return np.asarray(levels.permute(0, 2, 3, 1).unflatten(0, (-1, frames)).numpy())

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        """Text states: float32 (B, tokens, width)."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return self.text_encoder(tokens.input_ids).last_hidden_state

    def _noise(self, count: int, generator: Sequence[torch.Generator] | None) -> Tensor:
        config = self.unet.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        sources = generator if generator is not None else [None] * count
        return torch.stack([torch.randn(shape, generator=source) for source in sources])
