"""Errors at the edge: AtelierError <-> google.rpc.Status in gRPC's trailing metadata.

What a caller may see is decided here and nowhere else: AtelierErrors with their details; anything
else becomes INTERNAL with an id that the log has too.
"""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from atelier.errors import AtelierError, Violation

DOMAIN = "atelier"

# All of a status travels in one trailer of 8 KiB, the details in base64 and the message once more,
# in percent signs; what is longer reaches the caller as RESOURCE_EXHAUSTED instead.
MAX_MESSAGE_BYTES = 600
MAX_FIELD_BYTES, MAX_DESCRIPTION_BYTES = 120, 300
MAX_VIOLATIONS_BYTES = 2_500


def to_status(error: AtelierError) -> status_pb2.Status:
    """The error as google.rpc.Status: ErrorInfo always; BadRequest, QuotaFailure and RetryInfo
    where they fit."""
    details: list[any_pb2.Any] = [
        _pack(
            error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
        )
    ]
    if error.violations:
        details.append(
            _pack(
                error_details_pb2.BadRequest(field_violations=_field_violations(error.violations))
            )
        )
    if error.code == "RESOURCE_EXHAUSTED" and "quota" in error.metadata:
        subject = f"tenant:{error.metadata.get('tenant', '')}"
        over = error_details_pb2.QuotaFailure.Violation(
            subject=subject, description=f"{error.metadata['quota']}: {error.message}"
        )
        details.append(_pack(error_details_pb2.QuotaFailure(violations=[over])))
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.code),
        message=cut(error.message, MAX_MESSAGE_BYTES),
        details=details,
    )


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, the end replaced by "..." where it is longer."""
    data = text.encode(errors="replace")
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "..."


def _field_violations(
    violations: tuple[Violation, ...],
) -> list[error_details_pb2.BadRequest.FieldViolation]:
    """As many as have room; the last then says how many are left out."""
    told = []
    room = MAX_VIOLATIONS_BYTES
    for n, violation in enumerate(violations):
        field = cut(violation.field, MAX_FIELD_BYTES)
        description = cut(violation.description, MAX_DESCRIPTION_BYTES)
        room -= len(field.encode()) + len(description.encode()) + 8
        if room < 0:
            field, description = "...", f"and {len(violations) - n} more"
        told.append(
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        )
        if room < 0:
            break
    return told


async def abort(context: grpc.aio.ServicerContext, error: AtelierError) -> None:
    """End the call with `error`; never returns."""
    status = rpc_status.to_status(to_status(error))
    context.set_trailing_metadata(status.trailing_metadata)
    await context.abort(status.code, status.details)


def from_rpc_error(error: grpc.aio.AioRpcError) -> AtelierError | None:
    """The AtelierError that the other side raised; None where it was not one of ours."""
    status = rpc_status.from_call(error)
    return None if status is None else _ours(status)


def of_status(status: status_pb2.Status) -> AtelierError:
    """The AtelierError that became this status."""
    return _ours(status) or AtelierError(status.message)


def _ours(status: status_pb2.Status) -> AtelierError | None:
    reason, violations, retry, metadata = None, [], None, {}
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        delay = error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations = [Violation(v.field, v.description) for v in bad.field_violations]
        elif detail.Unpack(delay):
            retry = delay.retry_delay.ToNanoseconds() / 1e9
    if reason is None:
        return None
    found = AtelierError(
        status.message,
        reason=reason,
        violations=tuple(violations),
        retry_after_seconds=retry,
        metadata=metadata,
    )
    found.code = code_pb2.Code.Name(status.code)
    return found


def _pack(message: error_details_pb2.ErrorInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
