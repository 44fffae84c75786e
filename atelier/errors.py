"""What can go wrong, in words that a caller can use. Pure: standard library only.

Each error knows its status code (gRPC's canonical names), a stable machine-readable reason,
whether a retry may help and after how long, and, for bad input, every field at fault.
`atelier.status` turns them into google.rpc.Status at the edge; nothing else is ever shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MAX_VIOLATIONS = 20


@dataclass(frozen=True)
class Violation:
    """One field at fault: its path in the request, and what is wrong and how to mend it."""

    field: str
    description: str


class AtelierError(Exception):
    """Base of every error that may be shown to a caller."""

    code = "INTERNAL"
    reason = "INTERNAL"
    in_log = True  # a line for each; else whoever raises it tells of it

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after_seconds: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.violations = violations
        self.retry_after_seconds = retry_after_seconds
        self.metadata = metadata or {}


class InvalidArgumentError(AtelierError):
    """The request is wrong, and will be wrong again; `violations` names every field at fault.

    Past MAX_VIOLATIONS it says how many more there are: an answer's trailers have a limit.
    """

    code = "INVALID_ARGUMENT"
    reason = "INVALID_ARGUMENT"

    def __init__(self, violations: list[Violation], *, reason: str | None = None) -> None:
        told = violations[:MAX_VIOLATIONS]
        if more := len(violations) - len(told):
            told = [*told, Violation("...", f"and {more} more")]
        summary = "; ".join(f"{v.field}: {v.description}" for v in told)
        super().__init__(summary, reason=reason, violations=tuple(told))


def refuse(bad: Iterable[Violation]) -> None:
    """Raises InvalidArgumentError where anything is wrong."""
    if found := list(bad):
        raise InvalidArgumentError(found)


class UnauthenticatedError(AtelierError):
    """Nobody knows who calls; the message says what to show."""

    code = "UNAUTHENTICATED"
    reason = "API_KEY_MISSING"


class NotFoundError(AtelierError):
    """There is no such thing, or it is somebody else's (the caller cannot tell which)."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class FailedPreconditionError(AtelierError):
    """Not as things stand; the message says what to change first."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class PermissionDeniedError(AtelierError):
    """Who calls is known, and may not; another key may."""

    code = "PERMISSION_DENIED"
    reason = "SCOPE_MISSING"

    def __init__(self, scope: str, what: str) -> None:
        super().__init__(
            f"{what} needs a key with the scope {scope}: ask an operator", metadata={"scope": scope}
        )


class PriorityNotAllowedError(AtelierError):
    """A class above those of the tenant's plan."""

    code = "PERMISSION_DENIED"
    reason = "PRIORITY_NOT_ALLOWED"

    def __init__(self, asked: str, highest: str) -> None:
        super().__init__(
            f"priority: your plan has none above {highest}; leave it out, or ask an operator for"
            f" {asked}",
            metadata={"highest_priority": highest},
        )


class AbortedError(AtelierError):
    """Somebody else changed it meanwhile; read it again, and begin anew."""

    code = "ABORTED"
    reason = "ABORTED"


class AlreadyExistsError(AtelierError):
    """The request_id was used for another request, or the name for another thing."""

    code = "ALREADY_EXISTS"
    reason = "REQUEST_ID_REUSED"


class ResourceExhaustedError(AtelierError):
    """Too much at once; `retry_after_seconds` says when to try again."""

    code = "RESOURCE_EXHAUSTED"
    reason = "OVERLOADED"


class QuotaExceededError(ResourceExhaustedError):
    """More than the tenant's plan has; told as QuotaFailure too. The message is for its caller."""

    reason = "QUOTA_EXCEEDED"

    def __init__(
        self, tenant: str, quota: str, message: str, *, retry_after_seconds: float
    ) -> None:
        super().__init__(
            message,
            retry_after_seconds=retry_after_seconds,
            metadata={"tenant": tenant, "quota": quota},
        )


class UnavailableError(AtelierError):
    """A part is away for the moment; try again."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after_seconds: float | None = 1.0,
    ) -> None:
        super().__init__(message, reason=reason, retry_after_seconds=retry_after_seconds)


class DeposedError(UnavailableError):
    """Another scheduler leads: nothing that this one writes is taken any more."""

    reason = "DEPOSED"

    def __init__(self) -> None:
        super().__init__("another scheduler leads now; try again", retry_after_seconds=1.0)


class DeletedError(FailedPreconditionError):
    """Request_ids stand for generations that were deleted.

    ids: of the generations that could not be stored for that.
    """

    reason = "GENERATION_DELETED"

    def __init__(self, ids: frozenset[str]) -> None:
        super().__init__(
            "its request_id stands for a generation that was deleted: take a new request_id"
        )
        self.ids = ids


class StorageRefusedError(AtelierError):
    """The database takes these values no more the next time than this time."""

    reason = "STORAGE_REFUSED"


class ExecutionError(AtelierError):
    """An attempt failed on its device. Whether another may help is said by `retryable`."""

    code = "INTERNAL"
    reason = "EXECUTION_FAILED"

    def __init__(self, message: str, *, retryable: bool, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retryable = retryable
