"""What Triton's failures mean. Its own texts go to the log, bounded; a caller reads ours."""

from __future__ import annotations

import grpc
import structlog

from atelier.errors import ExecutionError

log = structlog.get_logger()

# A Triton that answered a moment ago ended while it ran something: this alone, or others beside it.
KILLED, SUSPECT = "DEVICE_KILLED", "DEVICE_DIED"
DIED = (KILLED, SUSPECT)
OUT_OF_MEMORY = "OUT_OF_MEMORY"

# gRPC's words where the other side's socket closed without a goodbye. A Triton that is stopped in
# order says GOAWAY, or answers that it stops: nothing that it ran is to blame for that.
_BROKEN_OFF = ("socket closed", "connection reset", "broken pipe")


class BrokenOffError(ExecutionError):
    """The connection ended under the call, as where a process dies."""


_Told = tuple[str, bool, str]  # reason, may another attempt help, our text
# What Triton's texts hold; the first match wins over the code.
_TEXTS: tuple[tuple[tuple[str, ...], _Told], ...] = (
    (
        ("out of memory", "out_of_memory", "bad_alloc", "failed to allocate"),
        (OUT_OF_MEMORY, True, "the device ran out of memory"),
    ),
    (
        ("stub process", "stub is not healthy"),
        ("STUB_UNHEALTHY", True, "the model's process died"),
    ),
    (
        ("unable to find shared memory region", "unable to find system shared memory region"),
        ("REGION_UNKNOWN", True, "the device knows nothing of the memory shared with it"),
    ),
    (
        ("protocol is restricted",),
        ("ADMIN_REFUSED", True, "the device wants an admin key, or another one"),
    ),
    (
        ("not ready", "is not found", "no available versions", "unknown model"),
        ("MODEL_NOT_READY", True, "the model is not loaded on the device"),
    ),
)
_CODES: dict[grpc.StatusCode, _Told] = {
    grpc.StatusCode.UNAVAILABLE: ("DEVICE_UNAVAILABLE", True, "the device does not answer"),
    grpc.StatusCode.CANCELLED: ("DEVICE_UNAVAILABLE", True, "the device dropped the call"),
    grpc.StatusCode.DEADLINE_EXCEEDED: ("DEVICE_TIMEOUT", True, "the device took too long"),
    grpc.StatusCode.INVALID_ARGUMENT: ("INVALID_INPUT", False, "the model refused its input"),
}


def classify(code: grpc.StatusCode, text: str, method: str, model: str) -> ExecutionError:
    """What went wrong, in our words; Triton's text goes to the log."""
    lower = text.lower()
    reason, retryable, message = next(
        (told for needles, told in _TEXTS if any(needle in lower for needle in needles)),
        _CODES.get(code, ("EXECUTION_FAILED", True, "the model failed on the device")),
    )
    shown = "".join(c if c.isprintable() else " " for c in text[:300])
    log.warning("triton call failed", method=method, model=model, code=code.name, detail=shown)
    broken_off = code is grpc.StatusCode.UNAVAILABLE and any(n in lower for n in _BROKEN_OFF)
    kind = BrokenOffError if broken_off else ExecutionError
    return kind(message, retryable=retryable, reason=reason)


def malformed(model: str, detail: str) -> ExecutionError:
    """An answer that does not fit the model's card."""
    log.warning("triton's answer is malformed", model=model, detail=detail[:300])
    return ExecutionError(
        "the model's output is not what its card promises",
        retryable=False,
        reason="INVALID_OUTPUT",
    )
