"""What the Grafana dashboards show, as a table; scripts/write_dashboards.py makes files of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One picture. `queries`: PromQL -> what its lines are called. `gpu`: needs a driver."""

    title: str
    unit: str  # Grafana's: s, bytes, percentunit, short, reqps, celsius
    queries: dict[str, str]
    help: str = ""
    gpu: bool = False
    stacked: bool = False


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Per second, summed."""
    labels = f" by ({by})" if by else ""
    return f"sum{labels} (rate({metric}{{{where}}}[$__rate_interval]))".replace("{}", "")


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """Of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, where)})"


def never(query: str) -> str:
    """What may never have happened yet is 0."""
    return f"({query}) or vector(0)"


RPC = "rpc_server_call_duration_seconds"
ENDED = "atelier_generations_ended_total"
DOES = "atelier_device_time_seconds_total"
STORE = "atelier_object_store_call_duration_seconds"
DATABASE = "db_client_operation_duration_seconds"
BAD = 'rpc_response_status_code!="OK"'
UNARY = 'rpc_method!~".*/(Watch|Follow|Generate|Connect).*"'

SERVICE = (
    Panel("Calls", "reqps", {rate(f"{RPC}_count", "rpc_method"): "{{rpc_method}}"}),
    Panel("Calls that end badly", "reqps", {
        never(rate(f"{RPC}_count", "rpc_method, rpc_response_status_code", BAD)):
            "{{rpc_method}} {{rpc_response_status_code}}",
    }),
    Panel("Seconds a call, 99 %", "s", {
        quantile(0.99, RPC, "rpc_method", UNARY): "{{rpc_method}}",
    }, "Without streams, which last as long as a generation."),
    Panel("Generations that end", "reqps", {rate(ENDED, "state"): "{{state}}"}, stacked=True),
    Panel("Share that fails", "percentunit", {
        never(rate(ENDED, where='state="FAILED"') + " / " + rate(ENDED)): "failed",
    }, "An alert from 5 % on."),
    Panel("Seconds from submit to the end", "s", {
        quantile(0.5, "atelier_generation_duration_seconds", "model"): "{{model}} half",
        quantile(0.95, "atelier_generation_duration_seconds", "model"): "{{model}} 95 %",
    }),
    Panel("Seconds in the queue, 95 %", "s", {
        quantile(0.95, "atelier_queue_wait_seconds", "priority"): "{{priority}}",
    }),
    Panel("Error of estimates", "percentunit", {
        quantile(0.5, "atelier_eta_error", "model"): "{{model}} half",
        quantile(0.9, "atelier_eta_error", "model"): "{{model}} 90 %",
    }),
    Panel("Object stores, seconds a call, 99 %", "s", {
        quantile(0.99, STORE, "store, operation"): "{{store}} {{operation}}",
    }),
    Panel("Object stores, calls that fail", "reqps", {
        never(rate(f"{STORE}_count", "store, operation", 'outcome="failed"')):
            "{{store}} {{operation}}",
        rate("atelier_object_store_secondary_writes_total"): "to the second",
    }),
    Panel("Database, seconds a statement, 99 %", "s", {
        quantile(0.99, DATABASE, "db_query_summary"): "{{db_query_summary}}",
    }),
    Panel("Database, what waits and what fails", "short", {
        "sum by (job) (db_client_connection_pending_requests)": "{{job}} waits for a connection",
        never(rate(f"{DATABASE}_count", "error_type", 'error_type!=""')): "{{error_type}} a second",
    }),
    Panel("Webhooks", "short", {
        rate("atelier_webhooks_attempts_total", "outcome"): "{{outcome}} a second",
        "sum(atelier_webhooks_waiting)": "waiting",
    }),
    Panel("Webhooks, seconds", "s", {
        "max(atelier_webhooks_outbox_age_seconds)": "oldest that is due",
        quantile(0.95, "atelier_webhooks_latency_seconds"): "to delivery, 95 %",
    }),
    Panel("Memory of processes", "bytes", {"process_resident_memory_bytes": "{{job}}"}),
    Panel("CPU of processes", "percentunit", {
        "rate(process_cpu_seconds_total[$__rate_interval])": "{{job}}",
    }),
)  # fmt: skip

SCHEDULER = (
    Panel("Who leads", "short", {"atelier_scheduler_leader": "{{instance}}"}, "The sum is 1."),
    Panel("Queue, by class", "short", {
        "sum by (priority) (atelier_queue_depth)": "{{priority}}",
    }, stacked=True),
    Panel("Oldest in the queue", "s", {"atelier_queue_oldest_seconds": "{{priority}}"}),
    Panel("What devices do", "percentunit", {
        f"{rate(DOES, 'doing')} / ignoring(doing) group_left {rate(DOES)}": "{{doing}}",
    }, "An alert from 90 % running or 30 % loading on.", stacked=True),
    Panel("Running, by device", "percentunit", {
        rate(DOES, "device", 'doing="running"'): "{{device}}",
    }),
    Panel("Time lost to loading, by device", "percentunit", {
        never(rate(DOES, "device", 'doing="loading"')): "{{device}}",
    }),
    Panel("Memory of devices", "bytes", {
        "atelier_device_memory_bytes": "{{device}} {{kind}}",
    }, "Measured only where a driver tells it."),
    Panel("States of devices", "short", {"count by (state) (atelier_device_state)": "{{state}}"}),
    Panel("Utilisation", "percentunit", {"atelier_device_utilization": "{{device}}"}, gpu=True),
    Panel("Temperature", "celsius", {"atelier_device_temperature_celsius": "{{device}}"}, gpu=True),
    Panel("Rows bound, by device", "short", {"atelier_device_batch_rows": "{{device}}"}),
    Panel("Rows a step", "short", {
        "sum by (model) (rate(atelier_step_rows_sum[$__rate_interval]))"
        " / sum by (model) (rate(atelier_step_rows_count[$__rate_interval]))": "{{model}} mean",
    }),
    Panel("Preemptions", "reqps", {rate("atelier_preemptions_total", "priority"): "{{priority}}"}),
    Panel("Attempts to be tried again", "reqps", {
        rate("atelier_generations_requeued_total", "reason"): "{{reason}}",
    }),
    Panel("Lag of the loop", "s", {
        quantile(0.5, "atelier_loop_lag_seconds"): "half",
        quantile(0.99, "atelier_loop_lag_seconds"): "99 %",
    }),
    Panel("Pauses by the collector, 99 %", "s", {
        quantile(0.99, "atelier_gc_pause_seconds", "generation"): "generation {{generation}}",
    }),
)  # fmt: skip

MODELS = (
    Panel("Waiting, by model", "short", {"atelier_queue_model_depth": "{{model}}"}, stacked=True),
    Panel("Devices that have it", "short", {"atelier_model_resident": "{{model}}"}),
    Panel("Loads", "reqps", {
        rate("atelier_model_load_duration_seconds_count", "model, source, outcome"):
            "{{model}} from {{source}} {{outcome}}",
    }),
    Panel("Seconds a load", "s", {
        quantile(0.5, "atelier_model_load_duration_seconds", "model, source"):
            "{{model}} from {{source}}",
    }),
    Panel("Switches a generation", "short", {
        f"{rate('atelier_model_load_duration_seconds_count')} / {rate(ENDED)}": "loads",
    }, "1: each generation pays for a load."),
    Panel("Evictions", "reqps", {rate("atelier_model_evictions_total", "model"): "{{model}}"}),
    Panel("Age at eviction", "s", {
        never(quantile(0.5, "atelier_model_eviction_age_seconds", "model")): "{{model}}",
    }),
    Panel("Breakers open", "short", {"atelier_breakers_open": "{{model}}"}),
    Panel("Seconds a step, half", "s", {
        quantile(0.5, "atelier_step_duration_seconds", "model, shape, rows"):
            "{{model}} {{shape}} rows {{rows}}",
    }),
    Panel("Steps", "reqps", {
        rate("atelier_step_duration_seconds_count", "model, shape"): "{{model}} {{shape}}",
    }),
)  # fmt: skip

TENANTS = (
    Panel("Submitted", "reqps", {
        rate("atelier_generations_submitted_total", "tenant"): "{{tenant}}",
    }, stacked=True),
    Panel("Not let in", "reqps", {
        never(rate("atelier_refusals_total", "reason, quota")): "{{reason}} {{quota}}",
    }, "Of all tenants: the quota that refuses, where it was a plan's.", stacked=True),
    Panel("Waiting", "short", {
        "sum by (tenant) (atelier_queue_depth)": "{{tenant}}",
    }, stacked=True),
    Panel("Seconds in the queue, 95 %", "s", {
        quantile(0.95, "atelier_queue_wait_seconds", "tenant"): "{{tenant}}",
    }),
    Panel("Ended well", "reqps", {rate(ENDED, "tenant", 'state="SUCCEEDED"'): "{{tenant}}"}),
    Panel("Ended badly", "reqps", {
        never(rate(ENDED, "tenant, state, reason", 'state!="SUCCEEDED"')):
            "{{tenant}} {{state}} {{reason}}",
    }),
    Panel("Share of all that was submitted", "percentunit", {
        f"{rate('atelier_generations_submitted_total', 'tenant')}"
        f" / ignoring(tenant) group_left {rate('atelier_generations_submitted_total')}":
            "{{tenant}}",
    }),
)  # fmt: skip

DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "service": ("Service", SERVICE),
    "scheduler": ("Scheduler and devices", SCHEDULER),
    "models": ("Models and residency", MODELS),
    "tenants": ("Tenants", TENANTS),
}
