"""Ids in requests about webhooks are taken as this service writes them, and in no other way."""

from __future__ import annotations

import pytest

from atelier.errors import InvalidArgumentError
from atelier.v1 import webhook_pb2 as pb
from gateway.webhooks import id_of, page_size_of

ID = "9bbc3cae-01df-4326-a6da-ec65b997d8e5"


def test_an_id_is_taken_in_upper_case_too() -> None:
    assert id_of(ID) == id_of(ID.upper()) == ID
    assert page_size_of(pb.ListDeliveriesRequest(page_size=7, page_token=ID, webhook_id=ID)) == 7


@pytest.mark.parametrize(
    "text", ["", "a", ID.replace("-", ""), "{" + ID + "}", "9-" + ID[:1] + ID[2:], ID + "-"]
)
def test_what_python_alone_would_take_for_one_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        id_of(text)
    if text:
        with pytest.raises(InvalidArgumentError, match="page_token"):
            page_size_of(pb.ListDeliveriesRequest(page_token=text))
