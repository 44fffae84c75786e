"""Who was running when a Triton ended: one inference alone, or several, each of which may be why.

A generation that ends its Triton must not be tried again for ever (scheduler/outcomes.py), and one
that ran beside it must not be taken for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.triton_errors import KILLED, SUSPECT, BrokenOffError
from atelier.errors import ExecutionError


@dataclass(eq=False)
class _Inference:
    """One under way."""

    alone: bool = True  # as far as is known: nothing else was, when Triton ended


class Blame:
    """The inferences under way on one Triton."""

    def __init__(self) -> None:
        self._under_way: set[_Inference] = set()

    @contextmanager
    def inference(self, *, connected: bool) -> Iterator[None]:
        """Around one. `connected`: Triton was there when it was sent.

        Raises:
            ExecutionError: Triton ended while it ran; KILLED where nothing else did, else SUSPECT.
        """
        one = _Inference()
        self._under_way.add(one)
        try:
            yield
        except BrokenOffError as error:
            if not connected:
                raise
            for each in self._under_way:
                each.alone = each.alone and len(self._under_way) == 1
            raise ExecutionError(
                "the device's Triton ended while it ran this",
                retryable=True,
                reason=KILLED if one.alone else SUSPECT,
            ) from error
        finally:
            self._under_way.discard(one)
