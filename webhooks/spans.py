"""A delivery in its generation's trace: a span for each attempt, below the generation's own."""

from __future__ import annotations

from datetime import datetime

from atelier.spans import ROOT, Span
from webhooks.outbox import Due
from webhooks.schedule import Answer

_WRONG = ("generation.failed", "generation.expired")


def span_of(
    due: Due, answer: Answer, began: datetime, ended: datetime, again_seconds: float | None
) -> Span:
    """What one attempt took. `again_seconds`: until the next; None where there is none.

    Its name has the instant: a delivery that is made anew counts its attempts from the beginning.
    """
    about: dict[str, str | int | float | bool] = {
        "atelier.tenant": due.tenant,
        "atelier.delivery_id": due.id,
        "atelier.attempt": due.attempts + 1,
        "atelier.waited_seconds": (began - due.create_time).total_seconds(),
        "http.response.status_code": answer.status,
    }
    if due.webhook_id:
        about["atelier.webhook_id"] = due.webhook_id
    if again_seconds is not None:
        about["atelier.again_seconds"] = again_seconds
    # Not what the receiver said: it may say all that it was sent.
    why = str(answer.status) if answer.status else answer.detail
    error = "" if answer.delivered else why
    name = f"webhook {due.id} {began.isoformat()}"
    return Span(name, began, ended, ROOT, "webhooks", "webhook", about, error=error)


def took_seconds(due: Due) -> float:
    """What the generation took, from the call to its end."""
    times = (datetime.fromisoformat(due.data[name]) for name in ("create_time", "finish_time"))
    began, ended = times
    return (ended - began).total_seconds()


def went_wrong(due: Due) -> bool:
    """Whether the generation failed, or was tried again."""
    return due.kind in _WRONG or due.tries > 1
