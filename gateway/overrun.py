"""Tenants that go on sending what is refused: past a bound, their submits end at the door.

What the scheduler refuses costs us as much as what it lets in, if not more: it is read and checked,
and its request_id looked up, for a retry of what was accepted needs no room. So one tenant that
sends twenty times its plan was five times the wait of its neighbours.

A bucket for each that was refused lately: a submit under way holds one token, which a refusal
keeps, and one that is let in gives back with another. Tokens come by the clock too. So nobody is
held up of whom more is let in than refused, however much that is; of others as much comes through
as is let in, and REFUSALS_A_SECOND to find out whether more would be. Since tokens are held, not
counted afterwards, it comes evenly: by debts it came in one burst a second, which neighbours felt.
What ends here is told REFUSED_TOO_OFTEN, and was not read.

Each gateway counts for itself. That is enough: it is the gateway, and the look-ups it would ask
for, that are guarded here; the plan is held to by the leader, for all gateways.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from opentelemetry.metrics import Meter

from atelier.buckets import Bucket, bucket_of, soon
from atelier.errors import AtelierError, ResourceExhaustedError
from atelier.instruments import REFUSALS
from atelier.metrics import counter
from atelier.seldom import Seldom

log = structlog.get_logger()

REFUSALS_A_SECOND, BURST = 20.0, 100.0
DEEPEST = -20.0  # a second: a batch of which a thousand were refused is not held against its tenant


class RefusedTooOftenError(ResourceExhaustedError):
    """Ended at the door. Each is counted; the log has a line a second."""

    reason = "REFUSED_TOO_OFTEN"
    in_log = False


@dataclass
class Came:
    """What came of the generations of one call."""

    taken: int = 0
    refused: int = 0  # for want of room, or for a plan's bounds; other errors do not count


class Overrun:
    """Of one gateway. `clock`: seconds that never go back."""

    def __init__(
        self, meter: Meter | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._left: dict[str, Bucket] = {}  # refusals that a tenant may have; full ones are none
        self._seldom = Seldom()
        self._count = counter(meter, REFUSALS) if meter else None

    @contextmanager
    def call(self, tenant: str) -> Iterator[Came]:
        """Around a call that submits; what comes of it is to be put down in what is given. An
        error that leaves it counts as one refusal, if it is of that kind.

        Raises:
            RefusedTooOftenError: at once: nothing is taken or looked up for the moment.
        """
        self._hold(tenant)
        came = Came()
        try:
            yield came
        except AtelierError as error:
            came.refused += error.code == "RESOURCE_EXHAUSTED"
            raise
        finally:
            self._give_back(tenant, came)

    def _hold(self, tenant: str) -> None:
        left = self._left.get(tenant)
        if left is None:
            return
        if left.fill(self._clock()) < 1.0:
            self._tell(tenant, left.at)
            raise RefusedTooOftenError(
                f"you go on sending what is refused, more than {REFUSALS_A_SECOND:g} times a"
                " second: this was not read. Wait as long as you are told to. Whether it was"
                " accepted before was not looked up: then send it with the same request_id",
                retry_after_seconds=soon(left.seconds_until(1.0)),
                metadata={"tenant": tenant},
            )
        left.level -= 1.0

    def _give_back(self, tenant: str, came: Came) -> None:
        left = self._left.get(tenant)
        if left is None and not came.refused:
            return
        now = self._clock()
        if left is None:
            left = bucket_of(self._left, tenant, REFUSALS_A_SECOND, BURST, now)
            left.level -= 1.0  # that it would have held
        left.level = max(DEEPEST, left.fill(now) + 1.0 + came.taken - came.refused)
        if left.level >= BURST:
            del self._left[tenant]

    def _tell(self, tenant: str, now: float) -> None:
        if self._count:
            self._count.add(1, {"reason": RefusedTooOftenError.reason, "quota": ""})
        if ended := self._seldom.count(now, tenant):
            log.info("submits end at the door", tenant=tenant, count=ended)
