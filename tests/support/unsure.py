"""`make test-unsure`: the integration suite, in which 1 % of statements and of stored objects
succeed and are told to have failed. A plugin of pytest's, for `-p tests.support.unsure`.

Our rooms must cope, in this process and in those that tests start. Spared is what a test asks of a
store or of a servicer by itself: who calls has to send again then, and a test's one call is the
thing it looks at. By gRPC tests' calls are sent again as any client's are, while they end as
UNAVAILABLE.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import grpc
import pytest

PERCENT = 1
ROOMS = ("scheduler.", "gateway.", "webhooks.", "agent.")
_SEED = os.environ.get("FAULT_SEED") or str(secrets.randbelow(10**6))
# Read by atelier.failpoints when it is imported, here and in each process that a test starts.
os.environ["ATELIER_FAILPOINTS"] = (
    f"statement_done={PERCENT}%raise;put_done={PERCENT}%raise;seed={_SEED}"
)
_AGAIN = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def pytest_report_header() -> str:
    return f"unsure: FAULT_SEED={_SEED}"


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is imported."""
    from atelier import database, failpoints
    from atelier.failpoints import failpoint

    assert failpoints._ARMED, "atelier.failpoints was imported before this plugin: nothing is armed"

    def of_a_room(name: str, error: type[Exception]) -> None:
        if _asked_by_a_room():
            failpoint(name, error)

    setattr(database, "failpoint", of_a_room)  # noqa: B010 - it is theirs, not exported
    grpc.aio.insecure_channel = _sent_again(grpc.aio.insecure_channel)
    grpc.insecure_channel = _sent_again(grpc.insecure_channel)


def _asked_by_a_room() -> bool:
    """Whether what is under way is a room's own work: it is in its stack, and no test is, up to the
    event loop."""
    frame: FrameType | None = sys._getframe(2)
    room = False
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == "asyncio.events":
            return room
        if module.startswith("tests."):
            return False
        room = room or module.startswith(ROOMS)
        frame = frame.f_back
    return room


def _sent_again(make: Callable[..., Any]) -> Callable[..., Any]:
    """A maker of channels of which tests' calls are sent again."""

    def channel(target: str, options: Any = None, **more: Any) -> Any:
        options = list(options or ())
        named = any(name == "grpc.service_config" for name, _ in options)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith("tests.") and not named:
            options.append(("grpc.service_config", json.dumps(_AGAIN)))
        return make(target, options=options, **more)

    return channel
