"""One Triton, over its gRPC protocol: the only place that speaks it.

Every call is short, has a deadline, and fails with an ExecutionError that says whether another
attempt may help. Triton's own texts go to the log, bounded; a caller reads ours, because server
texts have leaked names of memory regions before (CVE-2025-23320).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import structlog
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from agent.blame import Blame
from agent.buffers import OUTPUTS, Shape, SharedRows, StepBuffers, StepRows
from agent.sampler import Floats
from agent.shared_memory import UNANSWERED, SharedMemory
from agent.triton_errors import OUT_OF_MEMORY, BrokenOffError, classify, malformed
from atelier.catalog import ModelCard
from atelier.errors import ExecutionError
from atelier.failpoints import failpoint
from atelier.rpc import channel

log = structlog.get_logger()

MAX_PIXEL_BYTES = 48 * 2**20  # of one call, where it can be cut into several: a clip cannot
MAX_ANSWER_BYTES = 2**30  # a long clip comes whole

LIVE_SECONDS = 2.0
INDEX_SECONDS = 5.0
LOAD_SECONDS = 60.0  # of one component, and 10 times what the card expects of all
UNLOAD_SECONDS = 60.0
INFER_SECONDS = 60.0  # and 20 times what the card's profile expects, for a busy machine
_ADMIN_KEY_HEADER = "triton-grpc-protocol-admin-key"

_DATATYPES = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8"}
_DTYPES = {triton: numpy for numpy, triton in _DATATYPES.items()}


class Triton:
    """The port to one Triton process. All methods raise ExecutionError."""

    def __init__(
        self, address: str, admin_key: str | None = None, buffers: StepBuffers | None = None
    ) -> None:
        # No keepalive: on loopback a death is seen at once, a freeze by the deadlines, and Triton
        # punishes pings more frequent than every 300 s.
        self._channel = channel(address, keepalive=False, largest_answer_bytes=MAX_ANSWER_BYTES)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._reviving = asyncio.Lock()
        self._loads: Counter[str] = Counter()  # how often each model was loaded
        self._died: dict[str, int] = {}  # at which load of a model its process was found dead
        self._metadata = ((_ADMIN_KEY_HEADER, admin_key),) if admin_key else ()
        self._blame = Blame()
        self._ended = False  # seen, and nothing answered since: what is sent now did not end it
        self._shared = SharedMemory(self._call, buffers)

    async def live(self) -> bool:
        """Whether it says that it lives."""
        answer = await self._call("ServerLive", pb.ServerLiveRequest(), LIVE_SECONDS)
        return bool(answer.live)

    async def ready(self) -> frozenset[str]:
        """Triton models that can be used."""
        return frozenset(name for name, state in await self._index() if state == "READY")

    async def resident(self) -> frozenset[str]:
        """Triton models that are loaded or on their way out: their memory is still taken."""
        return frozenset(
            name
            for name, state in await self._index()
            if state == "READY" or (state == "UNLOADING" and not self._is_dead(name))
        )

    async def load(self, card: ModelCard, model: str) -> None:
        """Load one Triton model of a card; returns when it is ready."""
        request = pb.RepositoryModelLoadRequest(model_name=model)
        patience_seconds = LOAD_SECONDS + 10 * card.load_seconds
        try:
            await self._call("RepositoryModelLoad", request, patience_seconds)
        except ExecutionError as error:
            if error.reason != "DEVICE_TIMEOUT":
                raise
            raise ExecutionError(
                f"the model did not load within {patience_seconds:.0f} s",
                retryable=True,
                reason="LOAD_TIMEOUT",
            ) from error
        failpoint("model_load_called")
        self._loads[model] += 1

    async def unload(self, model: str) -> None:
        """Begin to unload one Triton model; it is gone when `resident` leaves it out."""
        request = pb.RepositoryModelUnloadRequest(model_name=model)
        await self._call("RepositoryModelUnload", request, UNLOAD_SECONDS)
        failpoint("model_unload_called")

    async def encode_text(self, card: ModelCard, input_ids: NDArray[np.int64]) -> Floats:
        """int64 (N, tokens) -> float32 (N, tokens, width)."""
        answer = await self._infer(
            card,
            card.components.text_encoder,
            {"input_ids": input_ids},
            ("text_embeddings",),
            INFER_SECONDS,
        )
        return answer["text_embeddings"]

    async def encode_image(self, card: ModelCard, images: NDArray[np.uint8]) -> Floats:
        """uint8 (N, [T,] H, W, 3) -> latents float32 (N, C, [T,] h, w)."""
        answer = await self._infer(
            card, card.components.vae_encoder, {"images": images}, ("latents",), INFER_SECONDS
        )
        return answer["latents"]

    def rows(self, count: int, latents: Shape, text: Shape, masked: bool = False) -> StepRows:
        """Room for the rows of one step, to be filled and given to `step`; good until the next
        call, as is what that step returned. `latents`, `text`: the shapes of one row's; `masked`:
        with room for what a denoiser sees of a mask.
        """
        return self._shared.rows(count, latents, text, masked)

    async def step(self, card: ModelCard, shape: str, rows: StepRows) -> tuple[Floats, Floats]:
        """One denoise step of N rows: next latents and denoised, both float32 (N, C, h, w)."""
        model = card.components.denoiser
        expected = card.profile(shape).seconds_of_step(len(rows.latents))
        timeout = INFER_SECONDS + 20 * expected
        if isinstance(rows, SharedRows) and await self._shared.is_mapped(rows.region):
            try:
                return await self._step_in_place(card, model, rows, timeout)
            except ExecutionError as error:
                if error.reason != "REGION_UNKNOWN":  # else its Triton is a new process
                    raise
            self._shared.forgotten()
        answer = await self._infer(card, model, rows.inputs, OUTPUTS, timeout)
        return answer["next_latents"], answer["denoised"]

    async def _step_in_place(
        self, card: ModelCard, model: str, rows: SharedRows, timeout: float
    ) -> tuple[Floats, Floats]:
        rows.region.busy = True
        try:
            answer = await self._answer(card, rows.request(model), timeout)
        except ExecutionError as error:
            rows.region.busy = error.reason in UNANSWERED
            raise
        rows.region.busy = False
        for told in answer.outputs:
            if tuple(told.shape) != rows.latents.shape or told.datatype != "FP32":
                raise malformed(model, f"{told.name} is {told.datatype} {list(told.shape)}")
        return rows.outputs["next_latents"], rows.outputs["denoised"]

    async def decode(self, card: ModelCard, latents: Floats) -> NDArray[np.uint8]:
        """Latents float32 (N, C, [T,] h, w) -> uint8 (N, [T,] H, W, 3), any N."""
        height, width = (side * card.latents.downscale for side in latents.shape[-2:])
        pixel_bytes = math.prod(card.latents.pixel_shape(width, height))
        rows = max(1, min(card.max_rows, MAX_PIXEL_BYTES // pixel_bytes))
        parts: list[NDArray[np.uint8]] = []
        start = 0
        while start < len(latents):
            some = latents[start : start + rows]
            try:
                answer = await self._infer(
                    card,
                    card.components.vae_decoder,
                    {"latents": some},
                    ("images",),
                    INFER_SECONDS,
                )
            except ExecutionError as error:
                if error.reason != OUT_OF_MEMORY or len(some) == 1:
                    raise
                rows = len(some) // 2
                continue
            parts.append(answer["images"])
            start += rows
        return np.concatenate(parts) if len(parts) > 1 else parts[0]  # a clip is not copied

    async def check(self, card: ModelCard, pictures: NDArray[np.uint8]) -> Floats:
        """The safety checker's scores: uint8 (N, H, W, 3) -> float32 (N), N at most max_rows."""
        checker, count = card.safety, len(pictures)
        assert checker is not None
        answer = await self._infer(
            card, checker.model, {checker.input: pictures}, (checker.output,), INFER_SECONDS
        )
        scores = answer[checker.output]
        fits = scores.dtype == np.float32 and scores.shape in ((count,), (count, 1))
        if not fits or not np.isfinite(scores).all():
            raise malformed(checker.model, f"{checker.output} is {scores.dtype} {scores.shape}")
        return scores.reshape(count)

    async def close(self) -> None:
        """Unregister what is shared, and close the channel; calls under way fail."""
        await self._shared.close()
        await self._channel.close()

    async def _index(self) -> list[tuple[str, str]]:
        """Each Triton model of the repository, and its state."""
        answer = await self._call("RepositoryIndex", pb.RepositoryIndexRequest(), INDEX_SECONDS)
        return [(model.name, model.state) for model in answer.models]

    async def _infer(
        self,
        card: ModelCard,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        outputs: tuple[str, ...],
        timeout: float,
    ) -> dict[str, NDArray[Any]]:
        request = pb.ModelInferRequest(
            model_name=model,
            inputs=[
                pb.ModelInferRequest.InferInputTensor(
                    name=name, datatype=_DATATYPES[array.dtype.name], shape=array.shape
                )
                for name, array in inputs.items()
            ],
            outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=n) for n in outputs],
            raw_input_contents=[array.tobytes() for array in inputs.values()],
        )
        answer = await self._answer(card, request, timeout)
        try:
            found = {
                told.name: np.frombuffer(raw, dtype=_DTYPES[told.datatype]).reshape(told.shape)
                for told, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
            }
            return {name: found[name] for name in outputs}
        except (KeyError, ValueError) as error:
            raise malformed(model, str(error)) from error

    async def _answer(
        self, card: ModelCard, request: pb.ModelInferRequest, timeout: float
    ) -> pb.ModelInferResponse:
        """Triton's, also where the model's process has died and can be started anew."""
        loads = self._loads[request.model_name]
        try:
            return await self._ask(request, timeout)
        except ExecutionError as error:
            if error.reason != "STUB_UNHEALTHY":
                raise
            await self._revive(card, request.model_name, loads)
            return await self._ask(request, timeout)  # again: it has no side effects

    async def _ask(self, request: pb.ModelInferRequest, timeout: float) -> pb.ModelInferResponse:
        loads = self._loads[request.model_name]
        ready = self._channel.get_state() is grpc.ChannelConnectivity.READY
        connected = ready and not self._ended
        try:
            failpoint("before_triton_call")
            with self._blame.inference(connected=connected):
                return await self._call("ModelInfer", request, timeout)
        except ExecutionError as error:
            if error.reason == "STUB_UNHEALTHY":
                self._died[request.model_name] = loads
            raise

    def _is_dead(self, model: str) -> bool:
        """Whether its process died, and it was not loaded since. Triton goes on saying that such a
        model is ready, and once it is unloaded, UNLOADING for ever, though no memory is left."""
        return self._died.get(model) == self._loads[model]

    async def _revive(self, card: ModelCard, model: str, loads: int) -> None:
        """Load a model anew whose process died, unless another call did since the load `loads`.

        Triton does not start it again by itself (server issue 8604; before 24.06 it did). A load
        alone changes nothing, as its files are what they were. Only Python-based backends have such
        processes.
        """
        async with self._reviving:
            if self._loads[model] == loads:
                log.warning("loading a model anew whose process died", model=model)
                await self.unload(model)
                await self.load(card, model)

    async def _call(self, method: str, request: Any, timeout: float) -> Any:
        try:
            answer = await getattr(self._stub, method)(
                request, timeout=timeout, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            model = getattr(request, "model_name", "")
            failure = classify(error.code(), error.details() or "", method, model)
            self._ended = self._ended or isinstance(failure, BrokenOffError)
            raise failure from None
        self._ended = False
        return answer
