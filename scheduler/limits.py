"""What tenants may still ask for, by their plans. Pure.

It lies with the leader, because every submit passes there, whichever of the gateways took it, and
every device-second is seen there. So a submit costs no other round trip, and there is one bucket
for a tenant however many gateways there are.

A new leader knows no buckets: each begins full, so a fail-over gives a tenant one burst more at
most, and forgives what it had overdrawn. What waits and runs is counted anew from the database.

Refused: buckets in PostgreSQL (a row of each tenant would be written at each submit, which are
committed 256 at a time), and buckets at each gateway (a tenant's bound would be as many times as
large as there are gateways). To hold back what a tenant runs while devices idle was refused too: it
serves nobody. Its share is the core's (fairness.py); `max_unfinished` bounds what it can pile up.
"""

from __future__ import annotations

from collections.abc import Mapping

from atelier.buckets import Bucket, bucket_of, soon
from atelier.errors import AtelierError, PriorityNotAllowedError, QuotaExceededError
from atelier.generation import Priority
from atelier.plan import FULL_AGAIN_SECONDS, UNBOUNDED, Plan


class Limits:
    """Of all tenants. `now` is seconds on one clock that never goes back."""

    def __init__(self, default: Plan = UNBOUNDED) -> None:
        self.default = default
        self._plans: dict[str, Plan] = {}
        self._requests: dict[str, Bucket] = {}
        self._gpu_seconds: dict[str, Bucket] = {}

    def plan_of(self, tenant: str) -> Plan:
        return self._plans.get(tenant, self.default)

    def set_all(self, plans: Mapping[str, Plan], now: float) -> None:
        """These are the plans of those that have one."""
        for tenant in {*plans, *self._plans}:
            self.set(tenant, plans.get(tenant), now)

    def set(self, tenant: str, plan: Plan | None, now: float) -> None:
        """From now on; None: the house's. What is in a bucket stays, as far as it has room."""
        before = self.plan_of(tenant)
        if plan is None:
            self._plans.pop(tenant, None)
        else:
            self._plans[tenant] = plan
        after = self.plan_of(tenant)
        if before == after:
            return
        for buckets, rate, capacity in (
            (self._requests, after.requests_per_second, after.request_capacity),
            (self._gpu_seconds, after.gpu_seconds_per_hour / 3600, after.gpu_seconds_capacity),
        ):
            if bucket := buckets.get(tenant):
                bucket.fill(now)
                bucket.rate, bucket.capacity = rate, capacity
                bucket.level = min(bucket.level, capacity)
                if not rate:
                    del buckets[tenant]

    def lowered(self, tenant: str, priority: Priority) -> Priority:
        """What a request that names no class has: no more than its tenant may ask for."""
        return min(priority, self.plan_of(tenant).highest_priority, key=lambda one: one.level)

    def refusal(
        self, tenant: str, priority: Priority, *, waiting: int, unfinished: int, now: float
    ) -> AtelierError | None:
        """Why another generation is not taken; None: it is, and counts.

        Args:
            waiting: how many of the tenant's wait already, with those that are being stored.
            unfinished: with those that run.
        """
        plan = self.plan_of(tenant)
        if priority.level > plan.highest_priority.level:
            return PriorityNotAllowedError(priority, plan.highest_priority)
        for name, most, count in (
            ("max_queued", plan.max_queued, waiting),
            ("max_unfinished", plan.max_unfinished, unfinished),
        ):
            if most and count >= most:
                what = "wait" if name == "max_queued" else "wait or run"
                return QuotaExceededError(
                    tenant, name, f"{most} of your generations {what} already: {_LATER}",
                    retry_after_seconds=FULL_AGAIN_SECONDS,
                )  # fmt: skip
        if plan.gpu_seconds_per_hour:
            bucket = self._bucket_of_gpu_seconds(tenant, plan, now)
            if bucket.fill(now) <= 0:
                return QuotaExceededError(
                    tenant, "gpu_seconds_per_hour",
                    f"you have taken your {plan.gpu_seconds_per_hour:g} GPU-seconds an hour,"
                    f" and {-bucket.level:.3g} more: {_LATER}",
                    retry_after_seconds=soon(bucket.seconds_until(0.0)),
                )  # fmt: skip
        if plan.requests_per_second:
            bucket = self._bucket_of_requests(tenant, plan, now)
            if bucket.fill(now) < 1:
                return QuotaExceededError(
                    tenant, "requests_per_second",
                    f"more than {plan.requests_per_second:g} generations a second: {_LATER}",
                    retry_after_seconds=soon(bucket.seconds_until(1.0)),
                )  # fmt: skip
            bucket.level -= 1
        return None

    def spent(self, tenant: str, gpu_seconds: float, now: float) -> None:
        """An attempt of the tenant's took so much of a device."""
        plan = self.plan_of(tenant)
        if plan.gpu_seconds_per_hour:
            bucket = self._bucket_of_gpu_seconds(tenant, plan, now)
            bucket.fill(now)
            bucket.level -= gpu_seconds

    def _bucket_of_requests(self, tenant: str, plan: Plan, now: float) -> Bucket:
        capacity = plan.request_capacity
        return bucket_of(self._requests, tenant, plan.requests_per_second, capacity, now)

    def _bucket_of_gpu_seconds(self, tenant: str, plan: Plan, now: float) -> Bucket:
        rate, capacity = plan.gpu_seconds_per_hour / 3600, plan.gpu_seconds_capacity
        return bucket_of(self._gpu_seconds, tenant, rate, capacity, now)


_LATER = "try again later, or ask an operator for more"
