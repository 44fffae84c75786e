"""`atelier sweep`: deletes files in the object store that no generation names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import SecretStr, ValidationError
from rich.console import Console

from atelier.cli.problems import ProblemError
from atelier.config import SweepSettings
from atelier.config_lines import faults
from atelier.embedded.postgres import Postgres
from atelier.embedded.s3 import BUCKET, ObjectStore
from atelier.embedded.stack import StackOptions, build
from atelier.embedded.state import StateDir
from atelier.errors import AtelierError
from atelier.generation_store import GenerationStore
from atelier.stores import Stores
from atelier.sweep import Swept, WrongDatabaseError
from atelier.sweep import sweep as sweep_one


async def sweep(state_dir: Path, days: int, console: Console, *, dry_run: bool) -> None:
    """Sweep every store, and say what was found.

    Raises:
        ProblemError: a store or the database is away, or nobody says where they are.
    """
    settings = settings_of(state_dir)
    stores = Stores.from_settings(settings)
    before = datetime.now(UTC) - timedelta(days=days)
    dsn = settings.postgres_dsn.get_secret_value()
    try:
        async with GenerationStore(dsn, connections=1) as generations:
            for name, store in (("primary", stores.primary), ("secondary", stores.secondary)):
                if store is not None:
                    found = await sweep_one(
                        store, generations.published, before=before, dry_run=dry_run
                    )
                    console.print(_told(name, found, days, dry_run=dry_run), highlight=False)
    except WrongDatabaseError as error:
        raise ProblemError(
            [
                f"the database knows none of the generations whose files lie in the {name} store",
                "nothing was deleted there: is ATELIER_POSTGRES_DSN that of this object store?",
            ]
        ) from error
    except AtelierError as error:
        raise ProblemError([error.message, "what was done is done: run it again"]) from error


def settings_of(state_dir: Path) -> SweepSettings:
    """Those of the stack that runs in `state_dir`, else the environment's.

    Raises:
        ProblemError: there are none.
    """
    state = StateDir(state_dir)
    record = state.read()
    if record is not None and record.is_alive():
        parts = build(state, StackOptions(devices=record.devices), keep_ports=True).parts
        [postgres] = [part for part in parts if isinstance(part, Postgres)]
        [store] = [part for part in parts if isinstance(part, ObjectStore)]
        return SweepSettings(
            postgres_dsn=SecretStr(postgres.dsn),
            s3_endpoint=store.address,
            s3_access_key=store.access_key,
            s3_secret_key=SecretStr(store.secret_key),
            s3_bucket=BUCKET,
            s3_secure=False,
        )
    try:
        return SweepSettings()  # from the environment
    except ValidationError as error:
        raise ProblemError(
            [
                f"nothing runs in {state_dir}, and the environment does not say where to sweep:",
                *faults(error),
            ]
        ) from error


def _told(name: str, found: Swept, days: int, *, dry_run: bool) -> str:
    done = "would be deleted" if dry_run else "deleted"
    size = f"{found.orphan_bytes / 2**20:.1f} MiB"
    strange = f"; {found.strange} that are none of ours were left" if found.strange else ""
    return (
        f"{name}: {found.looked} files; {found.orphans} orphans ({size}) and {found.uploads}"
        f" unfinished uploads of more than {days} d {done}{strange}"
    )
