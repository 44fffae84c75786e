"""What cannot be stored of a key is refused by its field, before anybody asks the database."""

from __future__ import annotations

import pytest

from atelier.errors import InvalidArgumentError
from atelier.v1 import access_pb2 as pb
from gateway.access_servicer import AccessServicer, key_violations
from gateway.scheduler_client import SchedulerClient


def wrong(**changes: object) -> list[str]:
    good = {"tenant": "acme", "scopes": ["read"], "description": "till", "expire_days": 7}
    return [v.field for v in key_violations(pb.CreateKeyRequest(**{**good, **changes}))]  # type: ignore[arg-type]


def test_a_key_that_can_be_made_is_made() -> None:
    assert wrong() == []


def test_each_field_that_cannot_be_is_named() -> None:
    assert wrong(tenant="a\0b") == wrong(tenant="") == ["tenant"]
    assert wrong(scopes=[]) == wrong(scopes=["everything"]) == ["scopes"]
    assert wrong(description="a\0b") == wrong(description="a" * 201) == ["description"]
    assert wrong(expire_days=-1) == ["expire_days"]


async def test_keys_of_a_name_that_is_none_are_not_looked_for() -> None:
    scheduler = SchedulerClient("127.0.0.1:9", 1)  # where nobody is
    with pytest.raises(InvalidArgumentError, match="tenant: must be"):
        await AccessServicer(scheduler).ListKeys(pb.ListKeysRequest(tenant="\0"), None)
    await scheduler.close()
