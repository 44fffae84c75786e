"""A Triton without processes, and an object store in a dict: no sockets, no sleeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from agent.buffers import OUTPUTS, SharedRows, StepBuffers, StepRows
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError, NotFoundError, UnavailableError


class FakeTriton:
    """The port's verbs over numpy. A step waits for `gate` where there is one.

    The "model" depends on every input, row by row, as a real one does: a row's result shows
    whether it was given its own timestep, guidance and coefficients.
    """

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.batches: list[tuple[str, int]] = []  # (model, rows) of each step
        self.fail: Callable[[str, Any], Exception | None] = lambda _verb, _what: None
        self.before_step: Callable[[], None] = lambda: None
        self.poison = False
        self.alive = True
        self.log: list[str] = []

    async def live(self) -> bool:
        self._check("live", None)
        return self.alive

    async def resident(self) -> frozenset[str]:
        self._check("resident", None)
        return frozenset(self.loaded)

    async def ready(self) -> frozenset[str]:
        self._check("ready", None)
        return frozenset(self.loaded)

    async def load(self, _card: ModelCard, model: str) -> None:
        self._check("load", model)
        self.log.append(f"load {model}")
        self.loaded.add(model)

    async def unload(self, model: str) -> None:
        self._check("unload", model)
        self.log.append(f"unload {model}")
        self.loaded.discard(model)

    async def encode_text(self, card: ModelCard, ids: Any) -> Any:
        await asyncio.sleep(0)
        self._check("encode_text", card.name)
        wide = np.repeat(ids[:, :, None], card.text.width, axis=2)
        return (wide / 50_000).astype(np.float32)

    def rows(
        self, count: int, latents: tuple[int, ...], text: tuple[int, ...], masked: bool = False
    ) -> StepRows:
        return StepRows.empty(count, latents, text, masked)

    async def step(self, card: ModelCard, shape: str, rows: StepRows) -> Any:
        await asyncio.sleep(0)
        self.before_step()
        self._check("step", (card, shape, rows))
        self.batches.append((card.name, len(rows.latents)))
        lengths = {len(array) for array in rows.inputs.values()}
        assert len(lengths) == 1, "every input has the same rows"
        assert all(array.dtype == np.float32 for array in rows.inputs.values())

        def wide(column: Any) -> Any:
            return column.reshape(-1, 1, 1, 1)

        s, p, q, a, b, c = (wide(rows.coefficients[:, i]) for i in range(6))
        # Plain arithmetic only: sums and tanh may round otherwise in another batch.
        told = wide(rows.text_embeddings[:, 1, 1, 0] + 0.1 * rows.guidance[:, 0])
        assert (rows.mask is not None) == (card.latents.masking == "concat")
        if rows.mask is not None and rows.known is not None:
            told = told + 0.1 * rows.mask + 0.2 * rows.known
        x = s * rows.latents + told
        m = x / (1 + np.abs(x)) * wide(rows.timestep[:, 0]) / 1000
        denoised = p * rows.latents + q * m
        latents = a * rows.latents + b * denoised + c * rows.denoised_prev
        if self.poison:
            latents[0] = np.nan
        return latents.astype(np.float32), denoised.astype(np.float32)

    async def encode_image(self, card: ModelCard, images: Any) -> Any:
        """What decode undoes, but for rounding: three channels of colour, and one of nothing."""
        await asyncio.sleep(0)
        self._check("encode_image", images)
        down = card.latents.downscale
        colours = (images[:, ::down, ::down].transpose(0, 3, 1, 2).astype(np.float32) - 128) / 64
        return np.concatenate([colours, np.zeros_like(colours[:, :1])], axis=1)

    async def decode(self, card: ModelCard, latents: Any) -> Any:
        await asyncio.sleep(0)
        self._check("decode", card.name)
        large = latents[:, :3].repeat(card.latents.downscale, 2).repeat(card.latents.downscale, 3)
        pixels = np.clip(large.transpose(0, 2, 3, 1) * 64 + 128, 0, 255)
        return pixels.astype(np.uint8)

    async def check(self, card: ModelCard, pictures: Any) -> Any:
        await asyncio.sleep(0)
        self._check("check", (card, pictures))
        return (pictures[..., 0].mean(axis=(1, 2)) / 255).astype(np.float32)  # how red they are

    async def close(self) -> None:
        self.log.append("close")

    def _check(self, verb: str, what: Any) -> None:
        if error := self.fail(verb, what):
            raise error


class InPlaceTriton(FakeTriton):
    """One whose steps' rows stay where they are, as in shared memory."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers = StepBuffers()

    def rows(
        self, count: int, latents: tuple[int, ...], text: tuple[int, ...], masked: bool = False
    ) -> StepRows:
        return self.buffers.rows(count, latents, text, masked)

    async def step(self, card: ModelCard, shape: str, rows: StepRows) -> Any:
        assert isinstance(rows, SharedRows)
        for name, array in zip(OUTPUTS, await super().step(card, shape, rows), strict=True):
            rows.outputs[name][...] = array
        return tuple(rows.outputs[name] for name in OUTPUTS)


class DictStore:
    """An object store in a dict; `broken` says that it is away, and puts wait until it is open."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.broken = False
        self.open = threading.Event()
        self.open.set()

    def put(self, key: str, data: bytes, content_type: str) -> str:
        assert self.open.wait(10)
        if self.broken:
            raise UnavailableError("the object store is away")
        self.objects[key] = data
        return key

    def get(self, key: str, *, most_bytes: int | None = None) -> bytes:
        if key not in self.objects:
            raise NotFoundError("no such object")
        return self.objects[key][:most_bytes]

    def delete(self, key: str) -> None:
        del self.objects[key]


def unavailable() -> ExecutionError:
    """What a dead Triton gives."""
    return ExecutionError("the device does not answer", retryable=True, reason="DEVICE_UNAVAILABLE")


class Ticks:
    """A clock that goes one second further each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now
