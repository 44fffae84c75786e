"""What an exported model looks like from outside: tensors and components. Pure.

This is the contract between the exporters and the agent. Everything else is derived from it: the
names and axes of the ONNX graphs (to_onnx), each config.pbtxt (pbtxt), the check of what lies in
the repository (verify).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

DataType = Literal["FP32", "FP16", "INT64", "UINT8", "BOOL"]
Masking = Literal["", "concat"]
Precision = Literal["fp32", "fp16"]  # of a graph as it is traced

FREE = -1  # an axis whose length the request chooses
COEFFICIENTS = 6  # s, p, q, a, b, c of one sampler step: see step_graph.DenoiserStep
MODEL_FILE = "model.onnx"
PLAN_FILE = "model.plan"
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
    """One Triton model: one graph, rows in, rows out.

    Attributes:
        name: Triton's.
        role: text_encoder, denoiser, vae_decoder or vae_encoder.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int
    role: str = ""


@dataclass(frozen=True)
class ExportSpec:
    """The sizes of one checkpoint.

    Attributes:
        name: as users say it, such as tiny-image.
        tokens: rows of a prompt's embedding; some families append one for the pooled vector.
        width: length of one such row.
        channels: channels of the latents.
        downscale: pixels to one latent, along each side.
        ids: length of a tokenized prompt, of all its tokenizers; 0 where it is `tokens`.
        frames: length of the latents' own axis of time; 0 where they have none.
        output_frames: pictures that one row is decoded to; 0 where it is a single picture.
        encodes: there is a VAE encoder, so pictures can be the start.
        masking: how the step takes a mask. "": not at all. "concat": the denoiser was trained to
            see the mask and, in `known`, the latents of the picture with the masked part grey.
        first_frame: a clip of it can begin with a given picture, as was measured.
        names: Triton's names of components that are another model's, by role.
    """

    name: str
    tokens: int
    width: int
    channels: int
    downscale: int
    max_batch_size: int = 16
    ids: int = 0
    frames: int = 0
    output_frames: int = 0
    encodes: bool = False
    masking: Masking = ""
    first_frame: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    def triton_name(self, role: str) -> str:
        """Triton's name of a component: no hyphens, so that it is also an identifier."""
        return self.names.get(role) or f"{self.stem}__{role}"

    @property
    def stem(self) -> str:
        """What the names of the model's own files begin with."""
        return self.name.replace("-", "_").replace(".", "_")

    @property
    def card_file(self) -> str:
        """The card's file name in the repository."""
        return f"{self.stem}.toml"

    @property
    def tokenizer_file(self) -> str:
        """The tokenizer's path in the repository."""
        return f"{self.text_encoder.name}/{TOKENIZER_FILE}"

    @property
    def latent_dims(self) -> tuple[int, ...]:
        return (self.channels, *((self.frames,) if self.frames else ()), FREE, FREE)

    def shape(self, width: int, height: int) -> str:
        """What a size is called in profiles: as atelier.spec has it, 64x64, or 64x64x8 of clips."""
        return f"{width}x{height}" + (f"x{self.output_frames}" if self.output_frames else "")

    @property
    def text_encoder(self) -> Component:
        return self._component(
            "text_encoder",
            inputs=(Tensor("input_ids", "INT64", (self.ids or self.tokens,)),),
            outputs=(Tensor("text_embeddings", "FP32", (self.tokens, self.width)),),
        )

    @property
    def denoiser(self) -> Component:
        latents = self.latent_dims
        mask = (
            Tensor("mask", "FP32", (1, *latents[1:])),  # 1 where something new is wanted
            Tensor("known", "FP32", latents),
        )
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
                *(mask if self.masking else ()),
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
            inputs=(Tensor("latents", "FP32", self.latent_dims),),
            outputs=(Tensor("images", "UINT8", self._pixel_dims),),
        )

    @property
    def vae_encoder(self) -> Component:
        return self._component(
            "vae_encoder",
            inputs=(Tensor("images", "UINT8", self._pixel_dims),),
            outputs=(Tensor("latents", "FP32", self.latent_dims),),
        )

    @property
    def components(self) -> tuple[Component, ...]:
        """In the order in which a generation needs them; the encoder, where there is one, last."""
        always = (self.text_encoder, self.denoiser, self.vae_decoder)
        return (*always, self.vae_encoder) if self.encodes else always

    @property
    def _pixel_dims(self) -> tuple[int, ...]:
        return (*((self.output_frames,) if self.output_frames else ()), FREE, FREE, 3)

    def _component(
        self, role: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
    ) -> Component:
        return Component(self.triton_name(role), inputs, outputs, self.max_batch_size, role)
