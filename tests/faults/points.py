"""Faults at the failpoints of our processes (atelier/failpoints.py): each with each action."""

from __future__ import annotations

import asyncio
from random import Random

from atelier.embedded.processes import is_stopped
from atelier.failpoints import POINTS
from tests.faults.fault import FROZEN_SECONDS, Fault, NotReachedError
from tests.faults.stack import SCHEDULERS, Stack, thaw

REACH_SECONDS = 40.0  # for a failpoint to be passed: a rare model is asked for once in 20 s
AGAIN_SECONDS = 4.0  # between two tries to bring somebody by
UNSURE_SECONDS = 15.0

# Who comes by, and who else must be killed for it to (a model is loaded where Triton is new, an
# attempt is queued again where its agent is gone).
_COMERS = {
    "submit_before_commit": SCHEDULERS, "submit_committed": SCHEDULERS,
    "claim_committed": SCHEDULERS, "complete_committed": SCHEDULERS,
    "requeue_committed": SCHEDULERS, "leader_elected": SCHEDULERS, "lease_renewed": SCHEDULERS,
    "before_triton_call": ("agent",), "step_done": ("agent",), "model_load_called": ("agent",),
    "model_unload_called": ("agent",), "before_upload": ("agent",),
    "upload_done_before_complete": ("agent",), "create_before_answer": ("gateway",),
    "webhook_sent_before_mark": ("webhooks",),
}  # fmt: skip
_BESIDE = {"model_load_called": ("triton-0", "triton-1"), "requeue_committed": ("agent",)}
_ONCE = (
    "leader_elected", "model_load_called", "model_unload_called", "requeue_committed",
    "webhook_sent_before_mark",
)  # fmt: skip
_RAISED = ("statement_done", "put_done")  # who is told so is told of a failure, and lives
assert set(_COMERS) | set(_RAISED) == set(POINTS)


def at(point: str, what: str) -> Fault:
    """A process ends (exit), or stands for longer than the lease (stop), at a failpoint.

    Raises, when it is carried out: NotReachedError.
    """

    async def hurt(stack: Stack, rng: Random) -> None:
        nth = 1 if point in _ONCE else rng.randint(2, 12)
        await _pass_by(stack, point, f"{what}@{nth}", rng.uniform(*FROZEN_SECONDS))

    return Fault(f"failpoint {what}", point, hurt)


def told_it_failed(percent: float) -> Fault:
    """Statements and stored objects succeed, and so many of them are told to have failed."""

    async def hurt(stack: Stack, rng: Random) -> None:
        armed = ";".join(f"{point}={percent:g}%raise" for point in _RAISED)
        await _restart(stack, (*SCHEDULERS, "agent"), f"{armed};seed={rng.random()}")
        await asyncio.sleep(UNSURE_SECONDS)
        await _restart(stack, (*SCHEDULERS, "agent"), "")

    return Fault("told it failed", f"{percent:g} %", hurt)


async def _pass_by(stack: Stack, point: str, action: str, frozen_seconds: float) -> None:
    comers, beside = _COMERS[point], _BESIDE.get(point, ())
    await _restart(stack, comers, f"{point}={action}")
    armed = {name: stack.pid(name) for name in comers}
    reached = asyncio.create_task(_reached(stack, armed, action.partition("@")[0], frozen_seconds))
    try:
        async with asyncio.timeout(REACH_SECONDS):
            while beside and not reached.done():
                for name in beside:
                    stack.kill(name)
                await asyncio.wait([reached], timeout=AGAIN_SECONDS)
            await reached
    except TimeoutError as error:
        await _restart(stack, comers, "")  # a later fault must not meet it
        raise NotReachedError(f"{point} was not reached in {REACH_SECONDS:g} s") from error
    finally:
        reached.cancel()


async def _restart(stack: Stack, comers: tuple[str, ...], failpoints: str) -> None:
    """With these armed; those that come after them are as ever."""
    before = {name: stack.pid(name) for name in comers}
    for name in comers:
        stack.arm(name, failpoints)
        stack.kill(name)
    for name in comers:
        await stack.restarted(name, before[name])
        stack.arm(name, "")


async def _reached(
    stack: Stack, armed: dict[str, int | None], what: str, frozen_seconds: float
) -> None:
    while True:
        for name, pid in armed.items():
            if what == "exit" and stack.pid(name) != pid:
                return
            if what == "stop" and pid and is_stopped(pid):
                try:
                    await asyncio.sleep(frozen_seconds)
                finally:
                    thaw([pid])
                return
        await asyncio.sleep(0.02)


ENDS, STOPS = ([at(point, what) for point in _COMERS] for what in ("exit", "stop"))
UNSURE = [told_it_failed(1), told_it_failed(5)]
PAIRS = {fault.name for fault in (*ENDS, *STOPS)} | {UNSURE[-1].name}
