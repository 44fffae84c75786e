"""Whose a call is by its key: what is refused and why, and how long an answer is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atelier.api_keys import new_key, read_key
from atelier.errors import AtelierError
from gateway.certificates import callers_by_uri
from gateway.identity import Caller
from gateway.keys import KNOWN_SECONDS, UNKNOWN_SECONDS, Found, Keys

TEXT = new_key(b"a" * 9, b"a" * 32)
SHOWN = read_key(TEXT)
assert SHOWN
READ, GENERATE = (f"/atelier.v1.GenerationService/{m}" for m in ("GetGeneration", "Generate"))
NOW = datetime(2026, 11, 23, tzinfo=UTC)
FOUND = Found(
    Caller("acme", frozenset({"read"}), SHOWN.id),
    SHOWN.secret_hash,
    expire_time=None,
    revoked=False,
)


@dataclass
class Call:
    """What a call sends."""

    authorization: list[str] = field(default_factory=list)
    uris: tuple[bytes, ...] = ()
    from_: str = "ipv4:192.0.2.7:4711"

    def peer(self) -> str:
        return self.from_

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("user-agent", "x"), *(("authorization", text) for text in self.authorization)]

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        return {"peer_uri": self.uris} if self.uris else {}


@dataclass
class Scene:
    """A scheduler that knows of one key, and the time."""

    found: Found | None = FOUND
    now: float = 0.0
    asked: list[str] = field(default_factory=list)

    async def find(self, key_id: str) -> Found | None:
        self.asked.append(key_id)
        return self.found if self.found and key_id == self.found.caller.key_id else None

    def keys(self, **more: Any) -> Keys:
        wall = lambda: NOW + timedelta(seconds=self.now)  # noqa: E731 - two words long
        return Keys(self.find, clock=lambda: self.now, wall=wall, **more)


async def whose(keys: Keys, text: str = TEXT, method: str = READ) -> Any:
    return await keys.identify(method, Call([f"Bearer {text}"]))  # type: ignore[arg-type]


async def why_not(keys: Keys, call: Call, method: str = READ) -> tuple[str, str]:
    with pytest.raises(AtelierError) as error:
        await keys.identify(method, call)  # type: ignore[arg-type]
    assert "a" * 32 not in error.value.message and TEXT not in error.value.message
    return error.value.code, error.value.reason


async def test_a_key_says_whose_a_call_is() -> None:
    who = await whose(Scene().keys())
    assert (who.tenant, who.key_id, who.is_admin) == ("acme", SHOWN.id, False)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([], "API_KEY_MISSING"),
        ([f"Bearer {TEXT[:-1]}"], "API_KEY_GARBLED"),
        ([f"Basic {TEXT}"], "API_KEY_GARBLED"),
        ([TEXT], "API_KEY_GARBLED"),
        ([f"Bearer {TEXT}"] * 2, "API_KEY_GARBLED"),
        ([f"Bearer {new_key(b'b' * 9, b'a' * 32)}"], "API_KEY_UNKNOWN"),
        ([f"Bearer {new_key(b'a' * 9, b'b' * 32)}"], "API_KEY_UNKNOWN"),  # its id, another secret
    ],
)
async def test_who_shows_no_good_key_is_nobody(sent: list[str], reason: str) -> None:
    assert await why_not(Scene().keys(), Call(sent)) == ("UNAUTHENTICATED", reason)


async def test_a_key_without_the_scope_is_denied() -> None:
    call = Call([f"bearer {TEXT}"])
    assert await why_not(Scene().keys(), call, GENERATE) == ("PERMISSION_DENIED", "SCOPE_MISSING")


async def test_a_revoked_key_is_taken_for_ten_seconds_more_at_most() -> None:
    scene = Scene()
    keys = scene.keys()
    await whose(keys)
    scene.found = replace(FOUND, revoked=True)
    scene.now = KNOWN_SECONDS - 0.1
    assert await whose(keys) == FOUND.caller
    scene.now = KNOWN_SECONDS
    told = await why_not(keys, Call([f"Bearer {TEXT}"]))
    assert told == ("UNAUTHENTICATED", "API_KEY_REVOKED")
    assert KNOWN_SECONDS <= 10 and len(scene.asked) == 2


async def test_a_key_that_expires_is_not_taken_for_being_remembered() -> None:
    scene = Scene(replace(FOUND, expire_time=NOW + timedelta(seconds=3)))
    keys = scene.keys()
    await whose(keys)
    scene.now = 3.0
    told = await why_not(keys, Call([f"Bearer {TEXT}"]))
    assert told == ("UNAUTHENTICATED", "API_KEY_EXPIRED")
    assert len(scene.asked) == 1


async def test_a_new_key_is_known_a_second_after_it_was_not() -> None:
    scene = Scene(None)
    keys = scene.keys()
    await why_not(keys, Call([f"Bearer {TEXT}"]))
    scene.found = FOUND
    await why_not(keys, Call([f"Bearer {TEXT}"]))
    scene.now = UNKNOWN_SECONDS
    assert await whose(keys) == FOUND.caller
    assert UNKNOWN_SECONDS <= 1


async def test_without_a_key_a_call_is_the_certificate_s_or_everybody_s() -> None:
    everybody = Caller("local", frozenset({"admin", "read"}))
    uri = "spiffe://a/shop"
    open_, closed = (
        Scene().keys(without=everybody),
        Scene().keys(certificates=callers_by_uri({uri: "shop"}, [], "house")),
    )
    assert await open_.identify(READ, Call()) is everybody  # type: ignore[arg-type]
    assert await whose(open_) == FOUND.caller  # a key that is shown decides
    by_certificate = await closed.identify(READ, Call(uris=(uri.encode(),)))  # type: ignore[arg-type]
    assert by_certificate == Caller("shop", frozenset({"generate", "read"}))
    stranger = Call(uris=(b"spiffe://a/else",))
    assert await why_not(closed, stranger) == ("UNAUTHENTICATED", "API_KEY_MISSING")


async def test_an_operator_is_known_by_a_certificate() -> None:
    """And does no more than an operator, where it is of no tenant."""
    admin, read = "/atelier.v1.FleetService/ListDevices", READ
    ann, shop, both = (f"spiffe://example.org/{name}" for name in ("ann", "shop", "both"))
    known = callers_by_uri({shop: "shop", both: "acme"}, [ann, both], "house")
    keys = Scene().keys(certificates=known)

    async def told(uri: str, method: str) -> str:
        try:
            who = await keys.identify(method, Call(uris=(uri.encode(),)))  # type: ignore[arg-type]
        except AtelierError as error:
            return error.reason
        assert who
        return who.tenant

    assert [await told(uri, admin) for uri in (ann, shop, both)] == [
        "house", "SCOPE_MISSING", "acme"
    ]  # fmt: skip
    assert [await told(uri, read) for uri in (ann, shop, both)] == ["SCOPE_MISSING", "shop", "acme"]
    assert await told(f"{ann}/x", admin) == "API_KEY_MISSING"
    makes_keys = "/atelier.v1.AccessService/CreateKey"
    assert [await told(uri, makes_keys) for uri in (ann, shop)] == ["house", "SCOPE_MISSING"]
