"""Every metric that there is: its name, unit, labels and where it comes from. Pure.

docs/metrics.md is written from this table (scripts/write_metrics.py), dashboards and alerts are
held to it, and nobody makes an instrument that is not in it. Names and units are OpenTelemetry's,
where it has a convention for what is measured; Prometheus reads `a.b` in seconds as `a_b_seconds`.

Labels take few values: from a closed set, or the first ones that come (labels.py), so that what
callers make up makes no series.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What its value does."""

    COUNTER = "counter"  # only rises
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Instrument:
    """One metric. `parts`: the processes that have it. `worry`: when to look into it."""

    name: str
    kind: Kind
    unit: str  # UCUM: s, By, 1, Cel, or what is counted, in braces
    help: str
    parts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # of a histogram: upper bounds
    worry: str = ""

    @property
    def prometheus(self) -> str:
        """Its name in Prometheus; of a histogram without _bucket, _sum or _count."""
        name = self.name.replace(".", "_")
        suffix = {"s": "_seconds", "By": "_bytes", "Cel": "_celsius"}.get(self.unit, "")
        if suffix and not name.endswith(suffix):
            name += suffix
        return f"{name}_total" if self.kind is Kind.COUNTER else name

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may have."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.prometheus}_{end}" for end in ("bucket", "sum", "count"))
        return (self.prometheus,)


SERVING = ("gateway", "scheduler", "webhooks")
STORING = ("gateway", "agent")
CALLS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
WAITS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 7_200.0)
LOADS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
AGES = (1.0, 10.0, 60.0, 300.0, 1_800.0, 7_200.0, 43_200.0)
STEPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
PAUSES = (0.0001, 0.0003, 0.001, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0)
LAGS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
_S = ("scheduler",)
_WAY_IN = ("gateway", "scheduler")

RPC_DURATION = Instrument(
    "rpc.server.call.duration", _H, "s", "Calls that ended; a stream's is the whole of it",
    SERVING, ("rpc.method", "rpc.response.status_code"), CALLS,
    worry="UNAVAILABLE, INTERNAL or RESOURCE_EXHAUSTED grow",
)  # fmt: skip
STORE_DURATION = Instrument(
    "atelier.object_store.call.duration", _H, "s",
    "Calls to an object store, with their tries; outcome: ok, missing, failed", STORING,
    ("store", "operation", "outcome"), CALLS, worry="its 99th percentile nears the patience",
)  # fmt: skip
PRIMARY_AWAY = Instrument(
    "atelier.object_store.primary_away", _G, "", "1 while the primary store is left alone, else 0",
    STORING, worry="it is 1",
)  # fmt: skip
SECONDARY_WRITES = Instrument(
    "atelier.object_store.secondary_writes", _C, "{object}",
    "Objects that went to the secondary store", STORING, worry="it grows",
)  # fmt: skip
DATABASE_DURATION = Instrument(
    "db.client.operation.duration", _H, "s",
    "Statements, with their wait for a connection; error.type: empty where it went well",
    ("scheduler", "webhooks"), ("db.query.summary", "error.type"), CALLS,
    worry="claim or publish take over 50 ms",
)  # fmt: skip
DATABASE_WAITING = Instrument(
    "db.client.connection.pending_requests", _G, "{request}",
    "Statements that wait for a connection", ("scheduler", "webhooks"), worry="it stays over 0",
)  # fmt: skip

LEADER = Instrument(
    "atelier.scheduler.leader", _G, "", "1: it leads", _S,
    worry="the sum over all schedulers is not 1",
)  # fmt: skip
GC_PAUSE = Instrument(
    "atelier.gc.pause", _H, "s",
    "Pauses by Python's garbage collector. Generation 0: young objects, ten times a second;"
    " 2: all that is not frozen, once a second (of a gateway once a minute)",
    _WAY_IN, ("generation",), PAUSES,
    worry="generation 2 is often over 10 ms",
)  # fmt: skip
GC_COLLECTED = Instrument(
    "atelier.gc.collected", _C, "{object}", "Objects in cycles that nobody referred to", _WAY_IN
)
GC_FROZEN = Instrument(
    "atelier.gc.frozen", _G, "{object}",
    "Objects that the collector passes over, since they outlived a full collection", _WAY_IN,
    worry="it grows without the queue growing, for hours",
)  # fmt: skip
LOOP_LAG = Instrument(
    "atelier.loop.lag", _H, "s",
    "How late the event loop woke, ten times a second. All else waits as long",
    _WAY_IN, (), LAGS,
    worry="its 99th percentile is over 100 ms: no core to spare, or something blocks the loop",
)  # fmt: skip

QUEUE_DEPTH = Instrument(
    "atelier.queue.depth", _G, "{generation}", "Generations that wait", _S, ("tenant", "priority")
)
QUEUE_MODELS = Instrument(
    "atelier.queue.model.depth", _G, "{generation}", "Generations that wait, by model", _S,
    ("model",),
)  # fmt: skip
QUEUE_OLDEST = Instrument(
    "atelier.queue.oldest", _G, "s", "How long the oldest one has waited", _S, ("priority",)
)
QUEUE_WAIT = Instrument(
    "atelier.queue.wait", _H, "s", "From submit to the first attempt", _S,
    ("tenant", "priority"), WAITS, worry="more than 5 % are over the class's objective",
)  # fmt: skip
SUBMITTED = Instrument(
    "atelier.generations.submitted", _C, "{generation}", "Taken into the queue for the first time",
    _S, ("tenant", "priority"),
)  # fmt: skip
ENDED = Instrument(
    "atelier.generations.ended", _C, "{generation}",
    "Ended, by state; reason: of the failure, empty where there is none", _S,
    ("tenant", "state", "reason"), worry="FAILED is over 5 % of all",
)  # fmt: skip
DURATION = Instrument(
    "atelier.generation.duration", _H, "s", "From submit to the end", _S, ("model", "state"), WAITS
)
REQUEUED = Instrument(
    "atelier.generations.requeued", _C, "{generation}",
    "Attempts that ended and will be tried again; reason PREEMPTED: for another's sake", _S,
    ("reason",), worry="it grows with a reason other than PREEMPTED",
)  # fmt: skip
REFUSALS = Instrument(
    "atelier.refusals", _C, "{generation}",
    "Generations not let in; quota: of a plan, where it was one", _WAY_IN, ("reason", "quota"),
    worry="QUEUE_FULL grows",
)  # fmt: skip
KEY_TRIES = Instrument(
    "atelier.keys.tries", _C, "{call}",
    "Calls with a key that is not taken; outcome: wrong (nobody has it), or refused (not looked at,"
    " for too many were wrong)", ("gateway",), ("outcome",),
    worry="refused grows: somebody makes keys up",
)  # fmt: skip
PREEMPTIONS = Instrument(
    "atelier.preemptions", _C, "{decision}", "Decisions to take a generation off its device", _S,
    ("priority",),
)  # fmt: skip
ETA_ERROR = Instrument(
    "atelier.eta.error", _H, "1",
    "How far the first estimate that a caller was told while it ran was off, as a share of what it"
    " then took (of 5 s, where it took less)", _S, ("model",), RATIOS,
    worry="its median is over 0.5",
)  # fmt: skip
WATCHERS = Instrument(
    "atelier.generations.watched", _G, "{generation}", "Generations in memory that have not ended",
    _S,
)  # fmt: skip

LOAD_DURATION = Instrument(
    "atelier.model.load.duration", _H, "s",
    "Loads that ended; source: disk or host (its node's memory); outcome: ok or failed", _S,
    ("model", "source", "outcome"), LOADS, worry="failed grows",
)  # fmt: skip
EVICTIONS = Instrument(
    "atelier.model.evictions", _C, "{model}", "Decisions to take a model off a device", _S,
    ("model",),
)  # fmt: skip
EVICTION_AGE = Instrument(
    "atelier.model.eviction.age", _H, "s", "How long a model was on its device when it had to go",
    _S, ("model",), AGES, worry="it is shorter than a few loads: devices are too small for the mix",
)  # fmt: skip
RESIDENT = Instrument(
    "atelier.model.resident", _G, "{device}", "Devices that a model is on", _S, ("model",)
)
BREAKERS = Instrument(
    "atelier.breakers.open", _G, "{device}",
    "Devices on which a model is left alone for a while, since it failed there", _S, ("model",),
    worry="it is over 0",
)  # fmt: skip
DEVICE_STATE = Instrument(
    "atelier.device.state", _G, "",
    "1 for the state that a device is in: ready, draining, drained, quarantined, lost", _S,
    ("device", "state"), worry="lost or quarantined",
)  # fmt: skip
DEVICE_TIME = Instrument(
    "atelier.device.time", _C, "s",
    "What a device does, looked at twice a second: running, loading (and nothing runs: time lost),"
    " idle, away", _S, ("device", "doing"), worry="running is over 90 %, or loading over 30 %",
)  # fmt: skip
DEVICE_MEMORY = Instrument(
    "atelier.device.memory", _G, "By",
    "kind: declared; reserved (weights and activations, as the scheduler counts); measured (by the"
    " driver, where there is one)", _S, ("device", "kind"),
    worry="measured is over 97 % of declared",
)  # fmt: skip
DEVICE_UTILISATION = Instrument(
    "atelier.device.utilization", _G, "1", "As the driver tells, 0 to 1", _S, ("device",)
)
DEVICE_TEMPERATURE = Instrument(
    "atelier.device.temperature", _G, "Cel", "As the driver tells", _S, ("device",),
    worry="over 85",
)  # fmt: skip
BATCH_ROWS = Instrument(
    "atelier.device.batch.rows", _G, "{row}", "Rows that are bound to a device", _S, ("device",)
)

STEP_DURATION = Instrument(
    "atelier.step.duration", _H, "s",
    "Denoiser calls; rows: 1, 2, 3-4, 5-8, 9-16, 17+", ("agent",), ("model", "shape", "rows"),
    STEPS, worry="it rises for the same model, shape and rows",
)  # fmt: skip
STEP_ROWS = Instrument(
    "atelier.step.rows", _H, "{row}", "Rows of a denoiser call", ("agent",), ("model",), ROWS
)

WEBHOOK_ATTEMPTS = Instrument(
    "atelier.webhooks.attempts", _C, "", "By outcome: delivered, failed, given_up", ("webhooks",),
    ("outcome",), worry="given_up grows",
)  # fmt: skip
WEBHOOK_LATENCY = Instrument(
    "atelier.webhooks.latency", _H, "s", "From the end of a generation to its delivery",
    ("webhooks",), (), WAITS,
)  # fmt: skip
WEBHOOK_WAITING = Instrument(
    "atelier.webhooks.waiting", _G, "{delivery}", "Not ended", ("webhooks",)
)
WEBHOOK_AGE = Instrument(
    "atelier.webhooks.outbox_age", _G, "s", "How long the oldest one has been due", ("webhooks",),
    worry="it is over a minute",
)  # fmt: skip

INSTRUMENTS: tuple[Instrument, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Instrument)
)
