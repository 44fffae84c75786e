"""Prompts to pictures from a model repository's ONNX files, in one process and without Triton.

For what must compare models and nothing around them: the agent's own tokenizer and samplers, ONNX
Runtime, no services.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.sampler import plan
from agent.text import PromptTokenizer
from atelier.catalog import ModelCard
from exporters.int8 import Session
from exporters.measure import open_session
from exporters.spec import MODEL_FILE, MODEL_VERSION

Pictures = NDArray[np.uint8]


def onnx_path(repository: Path, component: str) -> Path:
    """Where a component's graph lies."""
    return repository / component / MODEL_VERSION / MODEL_FILE


class Chain:
    """The three sessions of a text-to-image model; each may be exchanged for another."""

    def __init__(self, repository: Path, card_file: str) -> None:
        self.card = ModelCard.parse((repository / card_file).read_text())
        parts = self.card.components
        self.text_encoder: Session = open_session(onnx_path(repository, parts.text_encoder))
        self.denoiser: Session = open_session(onnx_path(repository, parts.denoiser))
        self.vae_decoder: Session = open_session(onnx_path(repository, parts.vae_decoder))
        self._tokenizer = PromptTokenizer(repository / parts.tokenizer, self.card.text.tokens)

    def draw(
        self, prompts: Sequence[str], *, seed: int, steps: int, guidance: float, pixels: int
    ) -> Pictures:
        """Pictures of the prompts, as one batch: uint8 (len(prompts), pixels, pixels, 3)."""
        rows, side = len(prompts), pixels // self.card.latents.downscale
        way = plan(self.card.schedule, "ddim", steps)
        shape = (rows, self.card.latents.channels, side, side)
        noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
        latents = noise * np.float32(way.initial_scale)
        denoised = np.zeros_like(latents)
        text = np.stack([self._embed([""] * rows), self._embed(prompts)], axis=1)
        for step in range(way.steps):
            feed = {
                "latents": latents,
                "denoised_prev": denoised,
                "timestep": np.full((rows, 1), way.timesteps[step], np.float32),
                "text_embeddings": text,
                "guidance": np.full((rows, 1), guidance, np.float32),
                "coefficients": np.tile(way.coefficients[step], (rows, 1)),
            }
            latents, denoised = self.denoiser.run(None, feed)
        pictures: Pictures = self.vae_decoder.run(None, {"latents": latents})[0]
        return pictures

    def _embed(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.text_encoder.run(
            None, {"input_ids": self._tokenizer.encode(*prompts)}
        )[0]
        return found
