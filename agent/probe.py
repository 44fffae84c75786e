"""The smallest generation that a model can make, one step of it: whether a device works."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from agent.buffers import StepRows
from agent.triton import Triton
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError

PROBE_SECONDS = 20.0  # for all three calls; a healthy device takes a fraction of one


async def try_out(triton: Triton, card: ModelCard, ids: NDArray[np.int64]) -> None:
    """Text, one step, pixels, of the model's smallest measured shape.

    Args:
        ids: of two texts, int64 (2, n).

    Raises:
        ExecutionError: a call failed, took too long, or gave values that are not finite.
    """
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await _try_out(triton, card, ids)
    except TimeoutError:
        raise ExecutionError(
            f"a probe took longer than {PROBE_SECONDS:g} s", retryable=True, reason="DEVICE_TIMEOUT"
        ) from None


async def _try_out(triton: Triton, card: ModelCard, ids: NDArray[np.int64]) -> None:
    shape = min(card.profiles, key=lambda name: card.profiles[name].activation_bytes_per_row)
    width, height = (int(side) for side in shape.split("x")[:2])
    text = await triton.encode_text(card, ids)
    latents = np.zeros((1, *card.latents.shape(width, height)), dtype=np.float32)
    masked = card.latents.masking == "concat"
    rows = StepRows(
        latents=latents,
        denoised_prev=latents,
        timestep=np.full((1, 1), 1.0, dtype=np.float32),
        text_embeddings=text[np.newaxis].astype(np.float32),
        guidance=np.full((1, 1), 1.0, dtype=np.float32),
        # x_next = x: whatever the model says, these latents can be decoded.
        coefficients=np.array([[1, 1, 0, 1, 0, 0]], dtype=np.float32),
        mask=np.ones_like(latents[:, :1]) if masked else None,
        known=latents if masked else None,
    )
    after, denoised = await triton.step(card, shape, rows)
    if not (np.isfinite(after).all() and np.isfinite(denoised).all()):
        raise ExecutionError(
            "a probe gave values that are not finite", retryable=True, reason="INVALID_OUTPUT"
        )
    await triton.decode(card, after)
