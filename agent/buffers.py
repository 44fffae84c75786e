"""Memory that a device's step loop and its Triton share: where the rows of a step lie.

The loop asks for rows, writes into them and calls `step`; Triton reads them where they are and
writes what comes back beside them. So no tensor of a step goes through gRPC, and each is copied
once: out of the generations into the batch, and back.

One region serves a device, because its loop makes one call at a time; it grows to the largest batch
seen. What `rows` returns, and what a step returned, is good until the next call of `rows`.

A region's name is there only until Triton has mapped it. Then it is unlinked, and the kernel frees
the memory when both have let go, however they end: nothing is left in /dev/shm by a crash. What a
killed agent leaves is Triton's mapping; the next agent's first region sweeps it (triton.py).

A call that ended without an answer (a deadline, a cancelled agent) may still be read from and
written to. Its region is abandoned: neither used again nor unregistered, which would unmap it under
a model at work.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from agent.sampler import Floats

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's shared memory, where shm_open looks
PREFIX = "atelier-steps-"
ALIGNMENT = 64  # bytes; a cache line, and what vector loads like
COEFFICIENTS = 6
OUTPUTS = ("next_latents", "denoised")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class StepRows:
    """What a step takes, N rows of any generations. All float32:

    latents, denoised_prev (N, C, h, w); timestep (N, 1); text_embeddings (N, 2, tokens, width),
    negative first; guidance (N, 1); coefficients (N, 6) = s, p, q, a, b, c. Of a denoiser that was
    trained for inpainting also mask (N, 1, h, w) and known (N, C, h, w); else None.
    """

    latents: Floats
    denoised_prev: Floats
    timestep: Floats
    text_embeddings: Floats
    guidance: Floats
    coefficients: Floats
    mask: Floats | None = None
    known: Floats | None = None

    @property
    def inputs(self) -> dict[str, Floats]:
        """By the names that the denoiser gives them."""
        all_of_them = {name: getattr(self, name) for name in StepRows.__dataclass_fields__}
        return {name: array for name, array in all_of_them.items() if array is not None}

    @classmethod
    def empty(cls, count: int, latents: Shape, text: Shape, masked: bool = False) -> StepRows:
        """Room for `count` rows. `latents`, `text`: the shapes of one row's; `masked`: with mask
        and known."""
        shapes = input_shapes(count, latents, text, masked)
        return cls(**{name: np.empty(shape, np.float32) for name, shape in shapes.items()})


def input_shapes(count: int, latents: Shape, text: Shape, masked: bool = False) -> dict[str, Shape]:
    """The shape of each input of a step of `count` rows."""
    shown = {"mask": (count, 1, *latents[1:]), "known": (count, *latents)} if masked else {}
    return {
        "latents": (count, *latents),
        "denoised_prev": (count, *latents),
        "timestep": (count, 1),
        "text_embeddings": (count, *text),
        "guidance": (count, 1),
        "coefficients": (count, COEFFICIENTS),
        **shown,
    }


@dataclass(eq=False)
class Region:
    """A piece of this host's memory that another process may map by its name, for a while."""

    name: str
    memory: mmap.mmap = field(repr=False)
    registered: bool = False  # Triton has mapped it
    busy: bool = False  # a call was sent whose end was not heard

    @classmethod
    def create(cls, size: int) -> Region:
        """Raises OSError where there is no such memory, or not so much."""
        name = f"{PREFIX}{secrets.token_hex(8)}"
        path = SHARED_MEMORY / name
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(file, 0, size)  # else a full /dev/shm is a SIGBUS, later
            return cls(name, mmap.mmap(file, size))
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(file)

    @property
    def size(self) -> int:
        return len(self.memory)

    def unlink(self) -> None:
        """Let nobody else map it."""
        (SHARED_MEMORY / self.name).unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class SharedRows(StepRows):
    """Rows that lie in a region, with room for what comes back; `offsets` in bytes, by tensor."""

    region: Region
    outputs: dict[str, Floats]
    offsets: dict[str, int]
    requests: dict[str, pb.ModelInferRequest] = field(default_factory=dict)  # by Triton model

    def request(self, model: str) -> pb.ModelInferRequest:
        """The call for them: it names places, so it is the same at every step."""
        if model not in self.requests:
            inputs = [
                pb.ModelInferRequest.InferInputTensor(
                    name=name, datatype="FP32", shape=array.shape, parameters=self._at(name, array)
                )
                for name, array in self.inputs.items()
            ]
            outputs = [
                pb.ModelInferRequest.InferRequestedOutputTensor(
                    name=name, parameters=self._at(name, array)
                )
                for name, array in self.outputs.items()
            ]
            self.requests[model] = pb.ModelInferRequest(
                model_name=model, inputs=inputs, outputs=outputs
            )
        return self.requests[model]

    def _at(self, name: str, array: Floats) -> dict[str, pb.InferParameter]:
        return {
            "shared_memory_region": pb.InferParameter(string_param=self.region.name),
            "shared_memory_offset": pb.InferParameter(int64_param=self.offsets[name]),
            "shared_memory_byte_size": pb.InferParameter(int64_param=array.nbytes),
        }


class StepBuffers:
    """One device's region, and the rows last laid out in it."""

    def __init__(self, create: Callable[[int], Region] = Region.create) -> None:
        self.region: Region | None = None
        self.outgrown: list[Region] = []  # registered, and to be unregistered
        self._create = create
        self._laid_out: tuple[tuple[int, Shape, Shape, bool], SharedRows] | None = None

    def rows(self, count: int, latents: Shape, text: Shape, masked: bool = False) -> SharedRows:
        """Room for `count` rows; the same object as before where nothing changed.

        Raises:
            OSError: there is no shared memory, or too little.
        """
        if self.region and self.region.busy:
            self.abandon()
        wanted = (count, latents, text, masked)
        if self._laid_out and self._laid_out[0] == wanted:
            return self._laid_out[1]
        inputs = input_shapes(*wanted)
        shapes = inputs | dict.fromkeys(OUTPUTS, (count, *latents))
        offsets, end = {}, 0
        for name, shape in shapes.items():
            offsets[name] = end
            end += -(-4 * prod(shape) // ALIGNMENT) * ALIGNMENT
        if self.region is None or self.region.size < end:
            region = self._create(1 << (end - 1).bit_length())
            self.abandon(outgrown=True)
            self.region = region
        views = {
            name: np.frombuffer(
                self.region.memory, np.float32, count=prod(shape), offset=offsets[name]
            ).reshape(shape)
            for name, shape in shapes.items()
        }
        given: dict[str, Any] = {name: views[name] for name in inputs}
        rows = SharedRows(
            **given,
            region=self.region,
            outputs={name: views[name] for name in OUTPUTS},
            offsets=offsets,
        )
        self._laid_out = wanted, rows
        return rows

    def abandon(self, *, outgrown: bool = False) -> None:
        """Use the present region no more; the memory is freed with the last array in it."""
        if self.region:
            self.region.unlink()
            if outgrown and self.region.registered:
                self.outgrown.append(self.region)
        self.region = self._laid_out = None
