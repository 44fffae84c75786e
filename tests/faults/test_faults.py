"""A cut of `make test-faults`: four faults on the real stack, and every promise is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.nemesis import FEW
from tests.faults.run import run

pytestmark = pytest.mark.real
SEED = 6


async def test_four_faults_break_no_promise(tmp_path: Path) -> None:
    found = await run(tmp_path, SEED, FEW, seconds=30)
    assert not found.complaints
    assert (found.lost, found.published_twice) == (0, 0)
    assert [recovery.what for recovery in found.recoveries] == [fault.what for fault in FEW]
    assert found.acknowledged == sum(found.finished.values())
