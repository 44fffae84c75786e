"""A gateway and a scheduler to be fuzzed: processes of their own, over a database that is there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from atelier.api_keys import ID_BYTES, SECRET_BYTES, new_key
from tests.support.ports import free_address
from tests.support.processes import Process, scheduler_process

S3_KEYS = ("fuzz", "fuzzfuzz")
MOST_QUEUED = 2_000
# What is logged where a task of a part died, and nobody answered for it.
DIED = ("never retrieved", "Unhandled exception", "Exception in callback", "loop ended", "CRITICAL")


@dataclass(frozen=True)
class Target:
    """What is fuzzed, and a key that may do everything."""

    gateway: Process
    scheduler: Process
    key: str

    def faults(self, words: Collection[str] = ("call failed", "Traceback", *DIED)) -> list[str]:
        """Lines of the logs in which a part tells of a fault of its own."""
        told = []
        for part in (self.gateway, self.scheduler):
            lines = part.log.read_text(errors="replace").splitlines()
            told += [
                f"{part.module}: {line[:2_000]}"
                for line in lines
                if any(word in line for word in words)
            ]
        return told


@contextmanager
def running(dsn: str, folder: Path, s3_address: str = "127.0.0.1:9") -> Iterator[Target]:
    """Started, and stopped in the end: each must still be there, and end well.

    s3_address: where nobody listens, what is asked of the object store is answered as such.
    """
    key = new_key(bytes([7] * ID_BYTES), bytes([7] * SECRET_BYTES))
    operators, address = folder / "operators", free_address()
    operators.write_text(key + "\n")
    with scheduler_process(dsn, folder, max_queued=MOST_QUEUED) as scheduler:
        gateway = Process(
            "gateway",
            address,
            folder / "gateway.log",
            gateway_listen=address,
            scheduler_address=scheduler.address,
            model_repository=folder,
            operator_keys=operators,
            s3_endpoint=s3_address,
            s3_access_key=S3_KEYS[0],
            s3_secret_key=S3_KEYS[1],
            webhook_allowed_networks='["127.0.0.0/8"]',
            webhook_allowed_ports="[]",
            webhook_allow_http="true",
        )
        with gateway:
            yield Target(gateway, scheduler, key)
