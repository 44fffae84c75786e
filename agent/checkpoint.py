"""Checkpoints: where a generation left off, so that it goes on there, on this device or another.

A checkpoint is latents, denoised_prev and the step that both are of. Noise is drawn by (seed,
step), and text and pictures that were given are encoded anew, so nothing else is needed, and at an
equal batch size the pictures are the same bytes as without a pause. It is a function of the
generation: whichever attempt wrote it, and however late, it is right. So it has no fence, and its
key has no attempt: what it bears is a print of all that it depends on, and one that bears another
is not used.

It is kept in the agent, and put into the object store for other agents: when a generation is taken
off its device or its device fails, and every UPLOAD_SECONDS of denoising, for those that die with
their agent. Whatever goes wrong here costs steps and nothing else; it is logged.

What ended is deleted, but for what was cancelled: an attempt is also stopped because another was
given its generation, which may go on from there. Those go by `atelier sweep`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import structlog

from agent.sampler import Floats
from agent.work import Work
from atelier.catalog import ModelCard
from atelier.errors import NotFoundError, UnavailableError
from atelier.object_keys import checkpoint_key

log = structlog.get_logger()

KEPT_BYTES = 256 * 2**20  # in the agent's memory, of all generations; the oldest go first
UPLOAD_SECONDS = 10.0  # of denoising between two uploads: what a dead agent may cost
PATIENCE_SECONDS = 5.0  # for the store, while a generation waits
CONTENT_TYPE = "application/x-npz"


class Store(Protocol):
    """What is needed of the object store."""

    def put(self, key: str, data: bytes, content_type: str) -> str: ...
    def get(self, key: str) -> bytes: ...
    def delete(self, key: str) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """latents, denoised_prev: float32 (n, C, ...), after `step` steps of what `print` names."""

    print: str
    step: int
    latents: Floats
    denoised_prev: Floats

    @property
    def nbytes(self) -> int:
        return self.latents.nbytes + self.denoised_prev.nbytes


def print_of(work: Work, card: ModelCard) -> str:
    """Of all that a checkpoint depends on."""
    facts = [work.attempt.generation_id, card.name, card.version, asdict(work.spec)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def pack(checkpoint: Checkpoint) -> bytes:
    """As a file of numpy's."""
    file = io.BytesIO()
    np.savez(
        file,
        print=np.array(checkpoint.print),
        step=np.array(checkpoint.step),
        latents=checkpoint.latents,
        denoised_prev=checkpoint.denoised_prev,
    )
    return file.getvalue()


def unpack(data: bytes) -> Checkpoint:
    """Raises ValueError: that is no such file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return Checkpoint(
                str(file["print"]), int(file["step"]), file["latents"], file["denoised_prev"]
            )
    except (KeyError, OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"not a checkpoint: {error}") from error


class Checkpoints:
    """One agent's. Called on the loop; the store is waited for in a thread."""

    def __init__(self, store: Store | None, *, kept_bytes: int = KEPT_BYTES) -> None:
        """`store`: None keeps them in this agent only."""
        self._store = store
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[str, Checkpoint] = OrderedDict()  # by generation
        self._stored: set[str] = set()  # keys that this agent put, or found
        # One thread: what is stored and deleted under a key is so in that order.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def keep(self, work: Work, checkpoint: Checkpoint) -> None:
        """Keep it here. Its arrays must not change any more."""
        self._kept[work.attempt.generation_id] = checkpoint
        self._kept.move_to_end(work.attempt.generation_id)
        while self._kept and sum(c.nbytes for c in self._kept.values()) > self._kept_bytes:
            self._kept.popitem(last=False)

    def save(self, work: Work, checkpoint: Checkpoint) -> Future[None] | None:
        """Keep it here, and begin to put it where other agents find it."""
        self.keep(work, checkpoint)
        if self._store is None:
            return None
        key = key_of(work)
        self._stored.add(key)
        return self._thread.submit(self._put, key, checkpoint)

    async def save_and_wait(self, work: Work, checkpoint: Checkpoint) -> None:
        """As `save`; it is there when this returns, as well as that goes."""
        if upload := self.save(work, checkpoint):
            await asyncio.wait([asyncio.wrap_future(upload)], timeout=PATIENCE_SECONDS)

    async def find(self, work: Work, card: ModelCard, shape: tuple[int, ...]) -> Checkpoint | None:
        """Where this generation left off, here or elsewhere; None where it begins.

        Args:
            shape: of its latents.
        """
        found = self._kept.get(work.attempt.generation_id)
        if found is None and work.number > 1 and self._store is not None:
            loop = asyncio.get_running_loop()
            get = loop.run_in_executor(self._thread, self._get, key_of(work))
            done, _ = await asyncio.wait([get], timeout=PATIENCE_SECONDS)
            found = get.result() if done else None
        if found is None:
            return None
        fits = (
            found.print == print_of(work, card)
            and work.spec.steps - work.spec.run_steps < found.step < work.spec.steps
            and found.latents.shape == found.denoised_prev.shape == shape
            and found.latents.dtype == found.denoised_prev.dtype == np.float32
            and bool(np.isfinite(found.latents).all() and np.isfinite(found.denoised_prev).all())
        )
        if not fits:
            log.warning("checkpoint not used", **work.whose)
        return found if fits else None

    def forget(self, work: Work) -> None:
        """It ended: nobody goes on with it."""
        self._kept.pop(work.attempt.generation_id, None)
        key = key_of(work)
        if self._store is not None and (key in self._stored or work.number > 1):
            self._stored.discard(key)
            self._thread.submit(self._delete, key)

    def close(self) -> None:
        """Take nothing more. Its thread goes on, since nothing can stop it."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _put(self, key: str, checkpoint: Checkpoint) -> None:
        assert self._store is not None
        try:
            self._store.put(key, pack(checkpoint), CONTENT_TYPE)
        except UnavailableError as error:
            log.warning("checkpoint not stored", key=key, reason=str(error))

    def _get(self, key: str) -> Checkpoint | None:
        assert self._store is not None
        try:
            return unpack(self._store.get(key))
        except NotFoundError:
            return None
        except (UnavailableError, ValueError) as error:
            log.warning("checkpoint not read", key=key, reason=str(error)[:300])
            return None

    def _delete(self, key: str) -> None:
        assert self._store is not None
        try:
            self._store.delete(key)
        except UnavailableError as error:
            log.warning("checkpoint left behind", key=key, reason=str(error))


def key_of(work: Work) -> str:
    """checkpoints/{tenant}/{generation_id}, safe as a path."""
    return checkpoint_key(work.tenant, work.attempt.generation_id)
