"""Many requests in one call: sent on in messages that the scheduler takes, answered in one that
every client takes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from google.rpc import error_details_pb2, status_pb2

from atelier.errors import InvalidArgumentError, Violation
from atelier.status import cut
from atelier.v1 import generation_pb2 as pb
from atelier.v1.scheduler_pb2 import SubmitGenerationRequest
from gateway.requests import MAX_PAGE_BYTES

MOST = 1_000  # requests in a call
TOGETHER = 50  # read and checked before the loop has its turn again; each takes a tenth of a ms
SENT_BYTES = 3 * 2**20  # in one message to the scheduler, which takes 4 MiB
BRIEF_MESSAGE_BYTES = 120


def check_number(request: pb.CreateGenerationsRequest) -> None:
    """Refuse a call for none, or for too many.

    Raises:
        InvalidArgumentError: see above.
    """
    number = len(request.requests)
    if not 1 <= number <= MOST:
        raise InvalidArgumentError(
            [Violation("requests", f"must be 1 to {MOST}; got {number}: send more in other calls")]
        )


def in_messages(
    submits: Iterable[SubmitGenerationRequest],
) -> Iterator[list[SubmitGenerationRequest]]:
    """In their order, as many together as one message has room for."""
    together: list[SubmitGenerationRequest] = []
    room = SENT_BYTES
    for submit in submits:
        size = submit.ByteSize() + 8
        if together and size > room:
            yield together
            together, room = [], SENT_BYTES
        together.append(submit)
        room -= size
    if together:
        yield together


def within_bounds(
    answers: Sequence[pb.CreateGenerationsAnswer],
) -> pb.CreateGenerationsResponse:
    """The answers, those that take more than their share in brief where all do not fit. Changes
    them."""
    if sum(answer.ByteSize() + 8 for answer in answers) > MAX_PAGE_BYTES:
        share = MAX_PAGE_BYTES // len(answers) - 8
        for answer in answers:
            if answer.ByteSize() > share:
                _shorten(answer)
    return pb.CreateGenerationsResponse(answers=answers)


def _shorten(answer: pb.CreateGenerationsAnswer) -> None:
    if answer.WhichOneof("answer") == "generation":
        whole = answer.generation
        for field in ("image", "video", "labels", "failure", "results", "provenance"):
            whole.ClearField(field)
        return
    error: status_pb2.Status = answer.error
    kept = [
        detail for detail in error.details if not detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)
    ]
    del error.details[:]
    error.details.extend(kept)
    error.message = cut(error.message, BRIEF_MESSAGE_BYTES)
