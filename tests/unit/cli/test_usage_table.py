"""What was used, for a person."""

from __future__ import annotations

import pytest
from rich.console import Console

from atelier.cli.tenants import usage_table
from atelier.v1 import usage_pb2


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (5_400, "5.3 KiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2_048 * 2**40, "2,048.0 TiB"),
    ],
)
def test_bytes_are_told_in_a_unit_that_fits(count: int, told: str) -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(usage_table([usage_pb2.Usage(day="2026-01-01", model="toy", bytes=count)]))
    assert f" {told} " in shown.get(), shown.get()
