"""The verbs of agent.triton.Triton over ONNX Runtime in this process: an exported model without a
Triton around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.buffers import StepRows
from atelier.catalog import ModelCard
from exporters.measure import open_session


class OnnxDevice:
    """Of one model of a repository."""

    def __init__(self, repository: Path, card: ModelCard) -> None:
        self.loaded: set[str] = set()
        self._sessions = {
            model: open_session(repository / model / "1" / "model.onnx")
            for model in card.components.triton_models
        }

    async def encode_text(self, card: ModelCard, ids: Any) -> Any:
        return self._ask(card.components.text_encoder, input_ids=ids)[0]

    async def encode_image(self, card: ModelCard, images: Any) -> Any:
        return self._ask(card.components.vae_encoder, images=images)[0]

    def rows(
        self, count: int, latents: tuple[int, ...], text: tuple[int, ...], masked: bool = False
    ) -> StepRows:
        return StepRows.empty(count, latents, text, masked)

    async def step(self, card: ModelCard, _shape: str, rows: StepRows) -> Any:
        return self._ask(card.components.denoiser, **rows.inputs)

    async def decode(self, card: ModelCard, latents: Any) -> Any:
        return self._ask(card.components.vae_decoder, latents=latents)[0]

    async def live(self) -> bool:
        return True

    async def resident(self) -> frozenset[str]:
        return frozenset(self.loaded)

    async def close(self) -> None:
        pass

    def _ask(self, model: str, **inputs: Any) -> list[Any]:
        found: list[Any] = self._sessions[model].run(None, inputs)
        return found
