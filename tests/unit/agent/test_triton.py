"""What Triton's failures mean, and that its words stay inside."""

from __future__ import annotations

import grpc
import pytest

from agent.triton import classify

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
