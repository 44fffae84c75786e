import grpc
from grpc.aio import AioRpcError, Metadata
from grpc_status import rpc_status

from atelier.cli import problems
from atelier.errors import (
    AtelierError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    Violation,
)
from atelier.status import to_status
from atelier.v1 import generation_pb2


def call_error(error: AtelierError) -> AioRpcError:
    status = rpc_status.to_status(to_status(error))
    return AioRpcError(
        status.code, Metadata(), Metadata(*status.trailing_metadata), details=status.details
    )


def test_each_field_at_fault_has_a_line() -> None:
    bad = [Violation("create.image.count", "too many"), Violation("x.y", "no")]
    error = InvalidArgumentError(bad)
    problem = problems.of_call(call_error(error), "127.0.0.1:1")
    assert problem.lines == ["--n: too many", "x.y: no"]
    assert problem.status == problems.BAD_INPUT


def test_an_unknown_model_is_bad_input() -> None:
    problem = problems.of_call(call_error(NotFoundError("no model nope")), "127.0.0.1:1")
    assert (problem.lines, problem.status) == (["no model nope"], problems.BAD_INPUT)


def test_a_retry_is_told() -> None:
    error = ResourceExhaustedError("too many wait", retry_after_seconds=2.5)
    problem = problems.of_call(call_error(error), "127.0.0.1:1")
    assert problem.lines == ["too many wait", "it may work in 2.5 s"]
    assert problem.status == problems.FAILED


def test_nobody_there_says_what_to_do() -> None:
    error = AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details="refused")
    problem = problems.of_call(error, "127.0.0.1:1")
    assert problem.lines[0] == "nothing answers at 127.0.0.1:1 (refused)"
    assert "atelier up" in problem.lines[1]
    assert problem.status == problems.FAILED


def test_a_gateway_that_does_not_answer_says_what_to_do() -> None:
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    problem = problems.of_call(AioRpcError(code, Metadata(), Metadata()), "127.0.0.1:1")
    assert problem.lines[0] == "127.0.0.1:1 did not answer in time"
    assert "atelier doctor" in problem.lines[1]


def test_a_failed_generation_says_why() -> None:
    generation = generation_pb2.Generation(id="7", state=generation_pb2.GENERATION_STATE_EXPIRED)
    generation.failure.message = "its deadline passed"
    assert str(problems.of_generation(generation)) == (
        "the generation 7 expired: its deadline passed"
    )
