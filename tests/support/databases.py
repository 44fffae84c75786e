"""Databases of a running PostgreSQL."""

from __future__ import annotations

from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo


def another_database(postgres: str) -> str:
    """One of its own, empty."""
    name = f"t{uuid4().hex}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return make_conninfo(postgres, dbname=name)
