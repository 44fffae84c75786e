"""Errors for a person: what is wrong, line by line, and the exit status. Never a traceback."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from atelier.errors import AtelierError
from atelier.status import from_rpc_error
from atelier.v1 import generation_pb2

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit statuses
# What the fields of a request are called on the command line.
OPTIONS = {
    "id": "ID",
    "prompt": "PROMPT",
    "model": "--model",
    "negative_prompt": "--negative",
    "width": "--size (width)",
    "height": "--size (height)",
    "steps": "--steps",
    "preset": "--preset",
    "guidance": "--guidance",
    "seed": "--seed",
    "count": "--n",
    "fps": "--fps",
    "preview_every": "--previews",
    "frames_per_second": "--fps",
    "format": "--format",
    "quality": "--quality",
    "init_image": "--init-image",
    "mask_image": "--mask",
    "strength": "--strength",
    "first_frame": "--first-frame",
    "thumbnail_size": "--thumbnail",
    "crop": "--crop",
    "resize": "--resize",
    "device_id": "DEVICE",
    "reason": "--reason",
    "limit": "--last",
    "past_decisions": "--past",
    "interval_seconds": "--interval",
    "url": "URL",
    "webhook_url": "--webhook",
    "events": "--event",
    "description": "--description",
    "overlap_seconds": "--overlap",
    "tenant": "TENANT",
    "scopes": "--scope",
    "expire_days": "--days",
    "webhook_id": "WEBHOOK",
    "generation_id": "--generation",
}
_BAD_INPUT_CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "OUT_OF_RANGE"}


@dataclass
class ProblemError(Exception):
    """What went wrong, for a person to read."""

    lines: list[str]
    status: int = FAILED

    def __str__(self) -> str:
        return "\n".join(self.lines)


def of_call(error: grpc.aio.AioRpcError, address: str) -> ProblemError:
    """Why a call to the gateway failed."""
    known = from_rpc_error(error)
    if known is not None:
        return _of_known(known)
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return ProblemError(
            [
                f"nothing answers at {address} ({error.details()})",
                "start it with `atelier up`, or ask `atelier doctor` what is wrong",
            ]
        )
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return ProblemError(
            [f"{address} did not answer in time", "ask `atelier doctor` what is wrong"]
        )
    status = BAD_INPUT if error.code().name in _BAD_INPUT_CODES else FAILED
    return ProblemError([f"{error.code().name}: {error.details()}"], status)


def may_pass(error: grpc.aio.AioRpcError) -> bool:
    """Whether the gateway, or a part behind it, is only away for the moment.

    CANCELLED is the other side's, when it stops: a cancel of ours is an asyncio.CancelledError.
    """
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def away(error: grpc.aio.AioRpcError) -> str:
    """What is away, of what may pass: what the gateway says that it is, if it says anything."""
    known = from_rpc_error(error)
    return known.message if known else "the gateway is away"


def of_generation(generation: generation_pb2.Generation) -> ProblemError:
    """Why a generation that was accepted has no results."""
    state = generation_pb2.GenerationState.Name(generation.state)
    ended = state.removeprefix("GENERATION_STATE_").lower()
    line = f"the generation {generation.id} {ended}"
    if generation.state != generation_pb2.GENERATION_STATE_CANCELLED:
        line += f": {generation.failure.message or 'no reason was given'}"
    return ProblemError([line])


def option(path: str) -> str:
    """The option that fills a field in, or what it lies in; the path where there is none."""
    known = [OPTIONS[name] for name in path.split(".") if name in OPTIONS]
    return known[-1] if known else path


def _of_known(error: AtelierError) -> ProblemError:
    lines = [f"{option(v.field)}: {v.description}" for v in error.violations] or [error.message]
    if error.code == "UNAUTHENTICATED":
        lines.append("say which: ATELIER_API_KEY, or `atelier --api-key-file FILE COMMAND`")
    if error.retry_after_seconds is not None:
        lines.append(f"it may work in {error.retry_after_seconds:g} s")
    return ProblemError(lines, BAD_INPUT if error.code in _BAD_INPUT_CODES else FAILED)
