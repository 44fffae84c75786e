"""The folder that a stack lives in. Everything in it can be deleted while nothing runs; what it
holds then is lost: the database, the results, the ports and the secrets.

    lock            held by the one `atelier up` that runs here
    processes.json  every part: name, pid, address, log, state
    ports.json, secrets.json (0600)
    key             the operator's API key (0600): the commands find it here
    logs/  postgres/  s3/  triton/
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from atelier.api_keys import ID_BYTES, SECRET_BYTES, new_key
from atelier.embedded import processes
from atelier.embedded.part import PartError

SECRETS = (
    "postgres_password",
    "s3_access_key",
    "s3_secret_key",
    "s3_inner_key",
    "triton_admin_key",
)


class InUseError(PartError):
    """Another `atelier up` runs here."""


@dataclass(frozen=True)
class PartRecord:
    """One part, as processes.json tells it."""

    name: str
    pid: int | None
    started: int | None  # the kernel's ticks; makes the pid a name
    address: str
    log: str
    state: str  # waiting | starting | ready | restarting | stopping | stopped | failed
    restarts: int

    def is_alive(self) -> bool:
        return self.pid is not None and processes.is_alive(self.pid, self.started)


@dataclass(frozen=True)
class StackRecord:
    """The whole of processes.json: who supervises, and every part."""

    pid: int
    started: int | None
    gateway: str
    devices: int
    parts: tuple[PartRecord, ...]

    def is_alive(self) -> bool:
        return processes.is_alive(self.pid, self.started)


class StateDir:
    """A stack's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.logs = self.root / "logs"
        self.ports = self.root / "ports.json"
        self.key = self.root / "key"
        self._records = self.root / "processes.json"

    def create(self) -> None:
        """Make the folder, for this user alone."""
        try:
            if not self.root.exists():
                self.root.mkdir(mode=0o700, parents=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise PartError(
                f"cannot make {self.root}: {error.strerror}; try --state-dir"
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only `atelier up` here, for as long as the context lasts.

        Raises:
            InUseError: another one runs.
        """
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                record = self.read()
                who = f" (pid {record.pid})" if record else ""
                raise InUseError(
                    f"another `atelier up`{who} runs in {self.root}:"
                    " end it with `atelier down`, or choose another --state-dir"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def secrets(self) -> dict[str, str]:
        """This stack's keys and passwords, drawn when first asked for."""
        path = self.root / "secrets.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if missing := [name for name in SECRETS if name not in known]:
            known |= {name: secrets.token_hex(20) for name in missing}
            write_json(path, known)
        return known

    def make_key(self) -> bool:
        """Draw this stack's API key, where it has none; whether it had none."""
        if self.key.exists():
            return False
        text = new_key(secrets.token_bytes(ID_BYTES), secrets.token_bytes(SECRET_BYTES))
        _write(self.key, text + "\n")
        return True

    def read_key(self) -> str:
        """This stack's API key; empty where it has none, or it is not for us to read."""
        try:
            return self.key.read_text().strip()
        except OSError:
            return ""

    def write(self, record: StackRecord) -> None:
        """Tell the world who runs."""
        write_json(self._records, asdict(record))

    def read(self) -> StackRecord | None:
        """Who ran here last; None where nobody did, or the file makes no sense."""
        try:
            data = json.loads(self._records.read_text())
            parts = tuple(PartRecord(**part) for part in data.pop("parts"))
            return StackRecord(parts=parts, **data)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def end_strays(self) -> list[str]:
        """End parts that an earlier `up` left behind; their names. Only under the lock."""
        record = self.read()
        parts = reversed(record.parts) if record else ()  # clients before their servers
        return [p.name for p in parts if p.pid is not None and processes.end(p.pid, p.started)]


def write_json(path: Path, content: object) -> None:
    """Atomically, and readable for this user alone."""
    _write(path, json.dumps(content, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.touch(mode=0o600)
    beside.write_text(text)
    beside.replace(path)
