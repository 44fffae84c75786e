"""How a call ended badly, and for how long to wait before it is made again. Pure but for the clock
and the chance that it is given."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from atelier.errors import AtelierError
from atelier.status import from_rpc_error
from atelier.v1 import generation_pb2 as pb

# Before each further try, where the error asks for no longer one: a gateway that is restarted is
# back by then.
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
JITTER = 0.25  # of a pause is added at random, so that callers that failed together come apart

# Nobody was there, or somebody who stopped. A cancel of the caller's own is no error of a call.
_PASSING = ("UNAVAILABLE", "CANCELLED")
FINAL = frozenset(
    {
        pb.GENERATION_STATE_SUCCEEDED,
        pb.GENERATION_STATE_FAILED,
        pb.GENERATION_STATE_CANCELLED,
        pb.GENERATION_STATE_EXPIRED,
    }
)


class GenerationError(AtelierError):
    """A generation ended without results.

    Attributes:
        generation: as it ended: its state, and in `failure` why.
    """

    reason = "GENERATION_FAILED"

    def __init__(self, generation: pb.Generation) -> None:
        ended = pb.GenerationState.Name(generation.state).removeprefix("GENERATION_STATE_").lower()
        why = f": {generation.failure.message}" if generation.failure.message else ""
        super().__init__(f"the generation {generation.id} {ended}{why}")
        self.generation = generation


def of_call(error: grpc.RpcError) -> AtelierError:
    """What a failed call says, of grpc as of grpc.aio; always with a code and a reason."""
    known = from_rpc_error(error)
    if known is None:
        known = AtelierError(error.details() or "no reason was given", reason=error.code().name)
        known.code = error.code().name
    return known


class Tries:
    """The tries of one call, or of one stream that is taken up again.

    Args:
        timeout: seconds for all tries and the pauses between them; None: no end.
        clock: seconds, never going back.
        chance: 0 to 1, anew each time.
        pausing: told of each error that is made up for by another try, and in how many seconds.
    """

    def __init__(
        self,
        timeout: float | None,
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        pausing: Callable[[AtelierError, float], None] | None = None,
    ) -> None:
        self._clock, self._chance = clock, chance
        self._ends = None if timeout is None else clock() + timeout
        self._pausing = pausing
        self._failed = 0  # in a row

    def left(self) -> float | None:
        """Seconds for the next try; None: no end."""
        return None if self._ends is None else max(0.0, self._ends - self._clock())

    def went_well(self) -> None:
        """An answer came: what fails from now on fails for the first time."""
        self._failed = 0

    def pause_after(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next try.

        Raises:
            AtelierError: there is none: the error will not pass, not in time, or lasts too long.
        """
        told = of_call(error)
        passes = told.code in _PASSING or told.retry_after_seconds is not None
        if not passes or self._failed >= len(PAUSES_SECONDS):
            raise told from error
        pause = max(PAUSES_SECONDS[self._failed], told.retry_after_seconds or 0.0)
        pause *= 1 + JITTER * self._chance()
        left = self.left()
        if left is not None and pause >= left:
            raise told from error
        self._failed += 1
        if self._pausing:
            self._pausing(told, pause)
        return pause
