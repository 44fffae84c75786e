"""When a delivery is tried again, and when a receiver is left alone. Pure: chance is an argument.

The pauses are those that Standard Webhooks recommends: ten attempts over 75.5 hours. Chance only
lengthens them, so that what failed at once does not come again at once.
"""

from __future__ import annotations

from dataclasses import dataclass

HOUR = 3_600.0
PAUSES_SECONDS = (
    5.0, 300.0, 1_800.0, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR,
)  # fmt: skip
JITTER = 0.1
MAX_ATTEMPTS = len(PAUSES_SECONDS) + 1
# A receiver may ask for that much patience (Retry-After), and no more.
MOST_PATIENCE_SECONDS = 24 * HOUR
# So many failures in a row, of whatever deliveries, and a lane is closed; then one attempt at a
# time tells whether it opens again.
BREAKS_AT = 3
CLOSED_SECONDS, LONGEST_CLOSED_SECONDS = 10.0, 600.0  # doubles with each further failure

GONE, TOO_MANY, AWAY = 410, 429, 503


@dataclass(frozen=True)
class Answer:
    """What came of an attempt.

    Attributes:
        status: of HTTP; 0: no answer came.
        detail: its beginning, or what went wrong.
        retry_after_seconds: as the receiver asked; None: it did not.
    """

    status: int
    detail: str
    retry_after_seconds: float | None = None

    @property
    def delivered(self) -> bool:
        """2xx. A redirect is a failure: it would lead where nobody checked."""
        return 200 <= self.status < 300


def again_seconds(answer: Answer, attempts: int, luck: float) -> float | None:
    """How long until the next attempt; None: there is none.

    Args:
        attempts: so far, this one with them.
        luck: 0 to 1.
    """
    if answer.delivered or answer.status == GONE or attempts >= MAX_ATTEMPTS:
        return None
    pause = PAUSES_SECONDS[attempts - 1] * (1 + JITTER * luck)
    return max(pause, patience_seconds(answer))


def patience_seconds(answer: Answer) -> float:
    """What the receiver asked for, where it may."""
    if answer.status not in (TOO_MANY, AWAY) or answer.retry_after_seconds is None:
        return 0.0
    return min(max(answer.retry_after_seconds, 0.0), MOST_PATIENCE_SECONDS)


def closed_seconds(failures: int, answer: Answer) -> float:
    """How long a lane is left alone after its latest answer, with so many failures in a row."""
    if failures < BREAKS_AT:
        return patience_seconds(answer)
    pause = min(CLOSED_SECONDS * 2.0 ** min(failures - BREAKS_AT, 10), LONGEST_CLOSED_SECONDS)
    return max(pause, patience_seconds(answer))
