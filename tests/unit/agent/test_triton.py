"""What Triton's failures mean, and that its words stay inside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from agent.triton import LOAD_SECONDS, Triton
from agent.triton_errors import classify
from atelier.catalog import Safety
from atelier.errors import ExecutionError
from tests.support.cards import toy_card, video_card

CASES = [
    ("UNAVAILABLE", "failed to connect to all addresses", "DEVICE_UNAVAILABLE", True),
    ("UNAVAILABLE", "Request for unknown model: 'x' is not found", "MODEL_NOT_READY", True),
    ("UNAVAILABLE", "Request for unknown model: 'x' has no available versions", "MODEL_NOT_READY",
     True),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", "DEVICE_TIMEOUT", True),
    ("INTERNAL", "CUDA error: Out Of Memory", "OUT_OF_MEMORY", True),
    ("INTERNAL", "Failed to allocate memory for requested buffer of size 1", "OUT_OF_MEMORY", True),
    ("INTERNAL", "Stub process 'x' is not healthy.", "STUB_UNHEALTHY", True),
    ("INVALID_ARGUMENT", "unexpected shape for input 'latents'", "INVALID_INPUT", False),
    ("INTERNAL", "onnx runtime error 6", "EXECUTION_FAILED", True),
    ("UNKNOWN", "", "EXECUTION_FAILED", True),
]  # fmt: skip


@pytest.mark.parametrize(("code", "text", "reason", "retryable"), CASES)
def test_failures_have_reasons(code: str, text: str, reason: str, retryable: bool) -> None:
    error = classify(grpc.StatusCode[code], text, "ModelInfer", "x")
    assert (error.reason, error.retryable) == (reason, retryable)


def test_tritons_words_stay_inside() -> None:
    secret = "region triton_python_backend_shm_region_7\nat /opt/tritonserver"
    for code in grpc.StatusCode:
        error = classify(code, secret, "ModelInfer", "x")
        assert "triton" not in error.message
        assert len(error.message) < 80


CARD = toy_card()
ENCODER = CARD.components.text_encoder


class Scripted(Triton):
    """A Triton whose process answers from here."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.failures: dict[str, list[ExecutionError]] = {}  # by method
        self.calls: list[tuple[str, float]] = []

    async def _call(self, method: str, request: Any, timeout: float) -> Any:
        self.calls.append((method, timeout))
        if failures := self.failures.get(method):
            raise failures.pop(0)
        if method == "ModelInfer":
            told = pb.ModelInferResponse.InferOutputTensor(
                name="text_embeddings", datatype="FP32", shape=[1]
            )
            return pb.ModelInferResponse(outputs=[told], raw_output_contents=[bytes(4)])
        entry = pb.RepositoryIndexResponse.ModelIndex(name=ENCODER, state="UNLOADING")
        return pb.RepositoryIndexResponse(models=[entry])

    async def encode(self) -> None:
        await self.encode_text(CARD, np.zeros((1, 32), dtype=np.int64))


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    triton = Scripted()
    yield triton
    await triton.close()


def died() -> ExecutionError:
    return ExecutionError("it died", retryable=True, reason="STUB_UNHEALTHY")


async def test_only_the_dead_are_gone_while_they_unload(scripted: Scripted) -> None:
    await scripted.load(CARD, ENCODER)
    assert await scripted.resident() == {ENCODER}
    scripted.failures = {"ModelInfer": [died()]}
    await scripted.encode()  # it dies, is loaded anew, and answers
    assert await scripted.resident() == {ENCODER}  # alive: its memory is still taken
    scripted.failures = {"ModelInfer": [died(), died()]}
    with pytest.raises(ExecutionError):
        await scripted.encode()
    assert await scripted.resident() == frozenset()  # dead: it stays UNLOADING for ever
    await scripted.load(CARD, ENCODER)
    assert await scripted.resident() == {ENCODER}


async def test_a_load_that_takes_too_long_says_so(scripted: Scripted) -> None:
    late = ExecutionError("the device took too long", retryable=True, reason="DEVICE_TIMEOUT")
    scripted.failures = {"RepositoryModelLoad": [late]}
    with pytest.raises(ExecutionError, match="did not load within 80 s") as failed:
        await scripted.load(CARD, ENCODER)
    assert failed.value.reason == "LOAD_TIMEOUT"
    assert scripted.calls == [("RepositoryModelLoad", LOAD_SECONDS + 10 * CARD.load_seconds)]


async def test_a_clip_is_not_copied_when_it_came() -> None:
    clip = np.zeros((1, 8, 64, 64, 3), np.uint8)

    class Decoding(Scripted):
        async def _infer(self, *_: Any) -> Any:
            return {"images": clip}

    triton = Decoding()
    latents = np.zeros((1, 32, 16, 16), np.float32)
    assert np.shares_memory(await triton.decode(video_card(), latents), clip)
    await triton.close()


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros((2, 2), np.float32),
        np.zeros(1, np.float32),
        np.zeros(2, np.int64),
        np.array([0, np.nan], np.float32),
    ],
)
async def test_a_checker_s_answer_counts_only_as_one_score_a_picture(scores: Any) -> None:
    class Checking(Scripted):
        async def _infer(self, *_: Any) -> Any:
            return {"unsafe": scores}

    triton, guard = Checking(), replace(CARD.components, safety=Safety("guard"))
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ExecutionError) as failed:
        await triton.check(replace(CARD, components=guard), pictures)
    assert (failed.value.reason, failed.value.retryable) == ("INVALID_OUTPUT", False)
    scores = np.array([[0.25], [7]], np.float32)
    found = await triton.check(replace(CARD, components=guard), pictures)
    assert found.tolist() == [0.25, 7]
    await triton.close()
