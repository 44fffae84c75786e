"""Configuration: the only reader of the environment. Read once, checked whole, frozen.

Every setting is an environment variable ATELIER_NAME (nested by a JSON value where it is a list).
Only gateway and scheduler listen beyond loopback, and that with TLS and callers that they know.
What all parts have in common is in `config_lines`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    field_validator,
    model_validator,
)

import atelier
from atelier.addresses import DEFAULT_PORTS, Rules
from atelier.config_lines import (
    LineSettings,
    LoopbackAddress,
    PeerSettings,
    Settings,
    is_loopback,
)
from atelier.plan import MOST_STREAMS, Plan, plan_violations


def model_repository() -> Path:
    """The Triton model repository beside the code, in a checkout as in an installed wheel."""
    return Path(atelier.__file__).parent.parent / "triton_repo"


class Bucket(BaseModel):
    """A bucket, and how to reach it."""

    model_config = ConfigDict(frozen=True)

    endpoint: str  # host:port
    access_key: str
    secret_key: SecretStr
    name: str
    region: str
    secure: bool


class ObjectStoreSettings(Settings):
    """Where results lie."""

    s3_endpoint: str  # host:port
    s3_access_key: str
    s3_secret_key: SecretStr
    s3_bucket: str = "atelier"
    s3_region: str = "us-east-1"
    s3_secure: bool = False
    # The second store, for when the first is slow or failing: without an endpoint there is none.
    # What is empty is as the first has it.
    s3_secondary_endpoint: str = ""
    s3_secondary_access_key: str = ""
    s3_secondary_secret_key: SecretStr = SecretStr("")
    s3_secondary_bucket: str = ""
    s3_secondary_region: str = ""
    s3_secondary_secure: bool | None = None
    # How long the first may be silent in a call before the second is asked.
    s3_patience_seconds: float = Field(default=5.0, gt=0, le=60)
    url_lifetime_seconds: int = 900  # presigned URLs can be replayed within it, by design

    @model_validator(mode="after")
    def _two_stores_are_two(self) -> Self:
        if self.secondary and (self.secondary.endpoint, self.secondary.name) == (
            self.primary.endpoint,
            self.primary.name,
        ):
            raise ValueError(
                "ATELIER_S3_SECONDARY_ENDPOINT and _BUCKET are those of the first store: name"
                " another store, or leave the endpoint unset for none"
            )
        return self

    @property
    def primary(self) -> Bucket:
        return Bucket(
            endpoint=self.s3_endpoint,
            access_key=self.s3_access_key,
            secret_key=self.s3_secret_key,
            name=self.s3_bucket,
            region=self.s3_region,
            secure=self.s3_secure,
        )

    @property
    def secondary(self) -> Bucket | None:
        if not self.s3_secondary_endpoint:
            return None
        secure = self.s3_secondary_secure
        return Bucket(
            endpoint=self.s3_secondary_endpoint,
            access_key=self.s3_secondary_access_key or self.s3_access_key,
            secret_key=self.s3_secondary_secret_key or self.s3_secret_key,
            name=self.s3_secondary_bucket or self.s3_bucket,
            region=self.s3_secondary_region or self.s3_region,
            secure=self.s3_secure if secure is None else secure,
        )


class SweepSettings(ObjectStoreSettings):
    """Of `atelier sweep`."""

    postgres_dsn: SecretStr


class WebhookRulesSettings(Settings):
    """Where callers may have events sent to: checked where they say it, and where it is done."""

    # Beyond public addresses, such as ["10.0.0.0/8"]: whatever listens there can be posted to.
    webhook_allowed_networks: list[IPvAnyNetwork] = Field(default_factory=list)
    webhook_allowed_ports: list[int] = Field(default_factory=lambda: list(DEFAULT_PORTS))  # []: any
    webhook_allow_http: bool = False

    @property
    def webhook_rules(self) -> Rules:
        return Rules(
            tuple(self.webhook_allowed_networks),
            tuple(self.webhook_allowed_ports),
            self.webhook_allow_http,
        )


class TraceSettings(Settings):
    """Where traces go, of those that tell of generations; the same in all of them."""

    # A collector of traces, by OTLP over HTTP, such as http://127.0.0.1:4318. Empty: none are made.
    otlp_endpoint: str = ""
    # Kept are those that failed, were tried again, or took longer than so many seconds; and of the
    # others this share. A caller whose own trace is sampled always gets the generation's.
    trace_slow_seconds: float = Field(default=30.0, ge=0)
    trace_ratio: float = Field(default=0.1, ge=0, le=1)


class WebhooksSettings(WebhookRulesSettings, TraceSettings):
    """What delivers webhooks."""

    webhooks_listen: LoopbackAddress  # for health checks
    postgres_dsn: SecretStr
    webhook_ca_file: Path | None = None  # whose certificates to trust; None: as this machine does
    webhooks_metrics_listen: LoopbackAddress | None = None  # as the scheduler's metrics_listen


class GatewaySettings(ObjectStoreSettings, WebhookRulesSettings, LineSettings):
    """The door."""

    gateway_listen: str  # host:port; beyond loopback only with require_keys and TLS
    model_repository: Path = Field(default_factory=model_repository)
    # Whether every call has to show an API key. Else, on loopback, one that shows none may do
    # everything but what is about keys, as `tenant`; one that shows a key is its tenant's here too.
    require_keys: bool = True
    tenant: str = "local"
    # A file with API keys, one a line, that have every scope, as `tenant`: an operator's, who makes
    # the others with it. Read anew when it changes.
    operator_keys: Path | None = None
    # PEM files, read anew when they change. With an authority every caller has to show a
    # certificate of it; of those that show no key the URI in it says whose they are, by
    # certificate_tenants, such as {"spiffe://example.org/service/shop": "acme"}.
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_authority: Path | None = None
    certificate_tenants: dict[str, str] = Field(default_factory=dict)
    # URIs that have the scope admin as well, or, where they are of no tenant, that alone.
    certificate_admins: list[str] = Field(default_factory=list)
    call_timeout_seconds: float = 60.0  # for callers that set no deadline
    max_streams: int = Field(default=MOST_STREAMS, ge=1)  # of one tenant, open here at a time
    gateway_metrics_listen: LoopbackAddress | None = None  # as the scheduler's metrics_listen

    @model_validator(mode="after")
    def _strangers_are_known(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("ATELIER_TLS_CERTIFICATE and ATELIER_TLS_KEY: give both, or none")
        if self.tls_client_authority and not self.tls_certificate:
            raise ValueError("ATELIER_TLS_CLIENT_AUTHORITY needs ATELIER_TLS_CERTIFICATE and _KEY")
        if (self.certificate_tenants or self.certificate_admins) and not self.tls_client_authority:
            raise ValueError(
                "ATELIER_CERTIFICATE_TENANTS and _ADMINS need ATELIER_TLS_CLIENT_AUTHORITY"
            )
        if not is_loopback(self.gateway_listen) and not (
            self.tls_certificate and self.require_keys
        ):
            raise ValueError(
                f"{self.gateway_listen} is not loopback: that takes ATELIER_REQUIRE_KEYS=true, and"
                " ATELIER_TLS_CERTIFICATE and ATELIER_TLS_KEY; or listen on 127.0.0.1:PORT"
            )
        return self


class SchedulerSettings(TraceSettings, PeerSettings):
    """The brain."""

    scheduler_listen: str  # host:port; beyond loopback only with certificates of its peers
    # What the URIs in its peers' certificates begin with, such as spiffe://example.org/atelier: a
    # gateway's is that and /gateway, an agent's that and /agent/NODE.
    peer_identity: str = ""
    postgres_dsn: SecretStr
    model_repository: Path = Field(default_factory=model_repository)
    max_queued: int = 10_000
    # Of tenants that have no plan of their own (atelier/plan.py), as JSON, such as
    # {"requests_per_second": 5, "max_unfinished": 200}. What is not in it is not bounded.
    default_plan: Plan = Plan()
    # Finished generations older than this are dropped, by days, with their request_ids. 0: never.
    retention_days: int = Field(default=30, ge=0)
    # Tenants that have less, as JSON: {"acme": 7}. Theirs go by rows; with their files where the
    # object store is told, too (ATELIER_S3_*, as a gateway's), else `sweep` deletes those.
    tenant_retention_days: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    s3_endpoint: str = ""
    # How long a lost agent's attempts wait for it: longer than its longest pause between two tries.
    agent_grace_seconds: float = 8.0
    report_seconds: float = 1.0
    metrics_listen: LoopbackAddress | None = None  # for Prometheus; None: nobody can scrape

    @field_validator("default_plan")
    @classmethod
    def _is_a_plan(cls, plan: Plan) -> Plan:
        if bad := plan_violations(plan, "ATELIER_DEFAULT_PLAN"):
            raise ValueError("; ".join(f"{one.field}: {one.description}" for one in bad))
        return plan

    @model_validator(mode="after")
    def _peers_are_known(self) -> Self:
        if self.peer_certificate and not self.peer_identity:
            raise ValueError(
                "ATELIER_PEER_IDENTITY: say what the URIs in the certificates of gateways and"
                " agents begin with, such as spiffe://example.org/atelier"
            )
        if not self.peer_certificate and not is_loopback(self.scheduler_listen):
            raise ValueError(
                f"{self.scheduler_listen} is not loopback, and who reaches a scheduler may do"
                " everything: set ATELIER_PEER_CERTIFICATE, _KEY, _AUTHORITY and _IDENTITY, or"
                " listen on 127.0.0.1:PORT"
            )
        return self

    @property
    def object_store(self) -> ObjectStoreSettings | None:
        """Where results lie, if it was told."""
        return ObjectStoreSettings() if self.s3_endpoint else None


class DeviceSettings(BaseModel):
    """One device of a node, and the Triton process that serves it."""

    model_config = ConfigDict(frozen=True)

    id: str
    triton_address: str  # host:port of its gRPC service
    capacity_bytes: int
    hardware: str = "cpu"
    # The driver's name of it: UUID (GPU-..., MIG-...), index ("2") or MIG instance ("2:1"). Empty:
    # no driver is asked, and nothing is measured.
    gpu: str = ""
    # Where whoever keeps its Triton writes the pid; without it a Triton is never started anew.
    triton_pid_file: Path | None = None


class AgentSettings(ObjectStoreSettings, LineSettings):
    """The hands."""

    node: str
    devices: list[DeviceSettings]
    model_repository: Path = Field(default_factory=model_repository)
    triton_admin_key: SecretStr | None = None  # for its restricted protocols
    agent_metrics_listen: LoopbackAddress | None = None  # as the scheduler's metrics_listen
    host_memory_bytes: int = 0  # of the node's memory, for files of recently used models
