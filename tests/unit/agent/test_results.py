"""Keys that cannot leave their tenant's folder."""

from __future__ import annotations

import pytest

from agent.results import object_key
from agent.work import Attempt, Work
from atelier.spec import ImageSpec

SPEC = ImageSpec("p", "", 64, 64, 1, 1.0, 0, 1, "ddim")


@pytest.mark.parametrize(
    ("tenant", "folder"),
    [("local", "local"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("Zoë", "Zo%C3%AB")],
)
def test_keys(tenant: str, folder: str) -> None:
    work = Work(Attempt("gen-1", 7, "cpu-0"), tenant, "toy", SPEC)
    assert object_key(work, 3) == f"results/{folder}/gen-1/7/3.png"
