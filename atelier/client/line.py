"""The line to a gateway: its options, its encryption, and who calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

LARGEST_MESSAGE_BYTES = 64 * 2**20
# A gateway that is frozen or cut off is found out within 15 s, also while a stream says nothing.
OPTIONS = (
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


@dataclass(frozen=True)
class Tls:
    """Encrypted, and sure of whom it talks to. Everything in PEM.

    Attributes:
        authority: certificates that the gateway's must lead to; None: those of the system.
        certificate: the caller's own, with private_key, where the gateway knows callers by them.
    """

    authority: bytes | None = None
    certificate: bytes | None = None
    private_key: bytes | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority, self.private_key, self.certificate)


def metadata(key: str | None) -> Sequence[tuple[str, str]]:
    """What every call carries."""
    return [("authorization", f"Bearer {key}")] if key else []
