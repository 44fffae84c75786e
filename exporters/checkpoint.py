"""A checkpoint in diffusers' folder format, opened for export."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from exporters.spec import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, ExportSpec
from exporters.step_graph import DenoiserStep, TextEncoder, VaeDecoder


@dataclass(frozen=True)
class Checkpoint:
    """A Stable-Diffusion-family pipeline in float32, and what it looks like from outside.

    `schedule` is scheduler_config.json as it lies in the folder: the pipeline's own copy is no
    use, since diffusers' constructor overwrites its steps_offset.
    """

    spec: ExportSpec
    pipeline: diffusers.StableDiffusionPipeline
    schedule: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, name: str) -> Checkpoint:
        """Read every part, from this disk only.

        Raises:
            OSError: a part is missing.
            ValueError: the denoiser takes more than this exporter gives it.
        """
        if not (folder / "model_index.json").is_file():
            raise FileNotFoundError(f"{folder}: no model_index.json: not a folder of diffusers'")
        _quieten()
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, low_cpu_mem_usage=False
        )
        pipeline.set_progress_bar_config(disable=True)
        unet, text = pipeline.unet.config, pipeline.text_encoder.config
        if unet.addition_embed_type not in (None, "text"):
            raise ValueError(
                f"{folder}: the denoiser wants addition_embed_type={unet.addition_embed_type!r};"
                " only text alone is fed here (SDXL needs an adapter of its own)"
            )
        if unet.in_channels != pipeline.vae.config.latent_channels:
            raise ValueError(f"{folder}: the denoiser takes more than latents (inpainting?)")
        spec = ExportSpec(
            name=name,
            tokens=text.max_position_embeddings,
            width=text.hidden_size,
            channels=unet.in_channels,
            downscale=2 ** (len(pipeline.vae.config.block_out_channels) - 1),
        )
        schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        return cls(spec, pipeline, schedule)

    @property
    def native_pixels(self) -> int:
        """Side of the pictures that it was trained on."""
        return int(self.pipeline.unet.config.sample_size) * self.spec.downscale

    @property
    def latent_multiple(self) -> int:
        """Sides of the latents must be multiples of this, or the denoiser's halves do not meet."""
        return 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)

    def graphs(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The graphs to export, in the order of spec.components."""
        vae = self.pipeline.vae
        return (
            TextEncoder(self.pipeline.text_encoder).eval(),
            DenoiserStep(self.pipeline.unet).eval(),
            VaeDecoder(vae, vae.config.scaling_factor, vae.config.shift_factor or 0.0).eval(),
        )

    def halved(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The same graphs with every weight rounded to what a half holds, still in float32."""
        text_encoder, denoiser, vae_decoder = (
            copy.deepcopy(graph).half().float() for graph in self.graphs()
        )
        return text_encoder, denoiser, vae_decoder

    def save_tokenizer(self, folder: Path) -> None:
        """Write tokenizer.json, and what it pads with beside it in tokenizer_config.json.

        The file says how to split and where begin and end go; length and padding are the reader's,
        as in every published checkpoint.
        """
        tokenizer = copy.deepcopy(self.pipeline.tokenizer.backend_tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.save(str(folder / TOKENIZER_FILE))
        padding = {"pad_token": self.pipeline.tokenizer.pad_token}
        (folder / TOKENIZER_CONFIG_FILE).write_text(json.dumps(padding) + "\n")


def _quieten() -> None:
    """Leave the terminal to our own progress lines."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*The axis name.*")
