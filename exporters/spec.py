"""What an exported model looks like from outside: tensors and components. Pure.

This is the contract between the exporters and the agent. Everything else is derived from it: the
names and axes of the ONNX graphs (to_onnx), each config.pbtxt (pbtxt), the check of what lies in
the repository (verify).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DataType = Literal["FP32", "INT64", "UINT8"]

FREE = -1  # an axis whose length the request chooses
COEFFICIENTS = 6  # s, p, q, a, b, c of one sampler step: see step_graph.DenoiserStep
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
MODEL_VERSION = "1"  # the one version folder of a Triton model; a new export replaces it


@dataclass(frozen=True)
class Tensor:
    """A named tensor; `dims` leaves out the batch axis, which always comes first."""

    name: str
    dtype: DataType
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Component:
    """One Triton model: one graph, rows in, rows out."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int


@dataclass(frozen=True)
class ExportSpec:
    """The sizes of one checkpoint.

    Attributes:
        name: as users say it, such as tiny-image.
        tokens: length of a tokenized prompt.
        width: length of one token's embedding.
        channels: channels of the latents.
        downscale: pixels to one latent, along each side.
    """

    name: str
    tokens: int
    width: int
    channels: int
    downscale: int
    max_batch_size: int = 16

    def triton_name(self, role: str) -> str:
        """Triton's name of a component: no hyphens, so that it is also an identifier."""
        return f"{self.name.replace('-', '_')}__{role}"

    @property
    def card_file(self) -> str:
        """The card's file name in the repository."""
        return f"{self.name.replace('-', '_')}.toml"

    @property
    def tokenizer_file(self) -> str:
        """The tokenizer's path in the repository."""
        return f"{self.text_encoder.name}/{TOKENIZER_FILE}"

    @property
    def text_encoder(self) -> Component:
        return self._component(
            "text_encoder",
            inputs=(Tensor("input_ids", "INT64", (self.tokens,)),),
            outputs=(Tensor("text_embeddings", "FP32", (self.tokens, self.width)),),
        )

    @property
    def denoiser(self) -> Component:
        latents = (self.channels, FREE, FREE)
        return self._component(
            "denoiser",
            inputs=(
                Tensor("latents", "FP32", latents),
                Tensor("denoised_prev", "FP32", latents),
                Tensor("timestep", "FP32", (1,)),
                # Row 0 is the negative prompt's, row 1 the prompt's.
                Tensor("text_embeddings", "FP32", (2, self.tokens, self.width)),
                Tensor("guidance", "FP32", (1,)),
                Tensor("coefficients", "FP32", (COEFFICIENTS,)),
            ),
            outputs=(
                Tensor("next_latents", "FP32", latents),
                Tensor("denoised", "FP32", latents),
            ),
        )

    @property
    def vae_decoder(self) -> Component:
        return self._component(
            "vae_decoder",
            inputs=(Tensor("latents", "FP32", (self.channels, FREE, FREE)),),
            outputs=(Tensor("images", "UINT8", (FREE, FREE, 3)),),
        )

    @property
    def components(self) -> tuple[Component, ...]:
        """In the order in which a generation needs them."""
        return (self.text_encoder, self.denoiser, self.vae_decoder)

    def _component(
        self, role: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
    ) -> Component:
        return Component(self.triton_name(role), inputs, outputs, self.max_batch_size)
