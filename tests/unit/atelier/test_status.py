from google.rpc import error_details_pb2, status_pb2

from atelier.errors import (
    AtelierError,
    InvalidArgumentError,
    ResourceExhaustedError,
    Violation,
)
from atelier.status import to_status
from atelier.translate import failure_from, failure_to


def details_of(error: AtelierError) -> dict[str, object]:
    kinds = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
    )
    found: dict[str, object] = {}
    for packed in to_status(error).details:
        for kind in kinds:
            message = kind()
            if packed.Unpack(message):
                found[kind.__name__] = message
    return found


def test_bad_input_names_its_fields() -> None:
    error = InvalidArgumentError([Violation("image.width", "must be 64"), Violation("a", "b")])
    assert to_status(error).code == 3
    bad = details_of(error)["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [v.field for v in bad.field_violations] == ["image.width", "a"]


def test_retry_info_is_there_only_where_a_retry_helps() -> None:
    later = details_of(ResourceExhaustedError("full", retry_after_seconds=1.5))["RetryInfo"]
    assert isinstance(later, error_details_pb2.RetryInfo)
    assert later.retry_delay.ToTimedelta().total_seconds() == 1.5
    assert "RetryInfo" not in details_of(AtelierError("x"))


def test_every_error_has_a_stable_reason() -> None:
    info = details_of(ResourceExhaustedError("full", reason="QUEUE_FULL"))["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("QUEUE_FULL", "atelier")


def test_however_much_is_wrong_the_answer_fits_a_trailer() -> None:
    many = [Violation("钥" * 500, "说" * 5_000) for _ in range(200)]
    error = InvalidArgumentError(many)
    assert len(error.violations) == 21 and error.violations[-1].description == "and 180 more"
    status = to_status(error)
    percent_encoded = 3 * len(status.message.encode())
    assert percent_encoded + 4 * status.ByteSize() / 3 < 8_000
    bad = details_of(error)["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    left_out = len(error.violations) - len(bad.field_violations) + 1
    assert bad.field_violations[-1].description == f"and {left_out} more"


def test_a_failure_as_an_agent_tells_it_can_be_stored_and_sent_on() -> None:
    told = status_pb2.Status(code=99, message="a\0b" + "é" * 5_000)
    why = failure_from(told)
    assert (why.code, why.reason, why.message[:3]) == ("UNKNOWN", "UNKNOWN", "abé")
    assert len(why.message.encode()) <= 600
    assert failure_to(why).code == 2
