"""Who makes keys up: how many are looked up for him, and whom that keeps out."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest

from atelier.api_keys import new_key, read_key
from atelier.errors import AtelierError
from gateway import keys as of_keys
from gateway.identity import Caller
from gateway.key_tries import (
    ADDRESS_A_SECOND,
    ADDRESS_BURST,
    AGAIN_SECONDS,
    EVERYBODY_A_SECOND,
    EVERYBODY_BURST,
    KeyTries,
    address_of,
)
from gateway.keys import KNOWN_SECONDS, MOST_LOOKED_UP, Found, Keys

READ = "/atelier.v1.GenerationService/GetGeneration"
HERE, THERE = "ipv4:192.0.2.7:4711", "ipv4:198.51.100.7:4711"


def key(number: int, secret: bytes = b"s") -> str:
    return new_key(number.to_bytes(9, "big"), secret * 32)


def id_of(text: str) -> str:
    shown = read_key(text)
    assert shown
    return shown.id


GOOD = [key(10**6 + number) for number in range(1_000)]


@dataclass
class Call:
    text: str
    from_: str

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.text}")]

    def peer(self) -> str:
        return self.from_


@dataclass
class House:
    """A gateway, a scheduler that has the keys of GOOD, and the time."""

    now: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    fails: bool = False

    def __post_init__(self) -> None:
        self.stored = {id_of(text): read_key(text) for text in GOOD}
        self.answers.set()
        self.tries = KeyTries(clock=lambda: self.now)
        self.keys = Keys(self.find, tries=self.tries, clock=lambda: self.now, own={id_of(GOOD[-1])})

    async def find(self, key_id: str) -> Found | None:
        self.asked[key_id] += 1
        await self.answers.wait()
        if self.fails:
            raise AtelierError("away", reason="AWAY")
        if (stored := self.stored.get(key_id)) is None:
            return None
        who = Caller("acme", frozenset({"read"}), key_id)
        return Found(who, stored.secret_hash, expire_time=None, revoked=False)

    async def told(self, text: str, from_: str = HERE) -> str:
        """What a call that shows this is told; empty: it is taken."""
        try:
            await self.keys.identify(READ, Call(text, from_))  # type: ignore[arg-type]
        except AtelierError as error:
            again = {"KEYS_TRIED_TOO_OFTEN": error.retry_after_seconds is not None}
            assert again.get(error.reason, True), "nobody told when to come again"
            return error.reason
        return ""

    async def flood(self, count: int, from_: str = HERE, first: int = 0) -> Counter[str]:
        """Keys that are made up, each another."""
        return Counter([await self.told(key(first + n), from_) for n in range(count)])


@pytest.fixture
async def house() -> House:
    return House()


async def test_an_address_has_so_many_wrong_keys_looked_up(house: House) -> None:
    told = await house.flood(1_000)
    most = int(ADDRESS_BURST)
    assert told == {"API_KEY_UNKNOWN": most, "KEYS_TRIED_TOO_OFTEN": 1_000 - most}
    assert house.asked.total() == most
    house.now = 2.0
    told = await house.flood(1_000, first=1_000)
    assert told["API_KEY_UNKNOWN"] == 2 * ADDRESS_A_SECOND


async def test_many_addresses_have_no_more_together(house: House) -> None:
    for number in range(2_000):
        await house.told(key(number), f"ipv4:203.0.{number // 256}.{number % 256}:1")
    assert house.asked.total() == EVERYBODY_BURST
    house.now = 1.0
    await house.flood(500, "unix:", first=5_000)
    assert house.asked.total() == EVERYBODY_BURST + EVERYBODY_A_SECOND
    # What was refused is kept nowhere.
    assert len(house.tries._of) <= EVERYBODY_BURST
    assert len(house.tries._tried) <= EVERYBODY_BURST + EVERYBODY_A_SECOND
    assert len(house.keys._unknown) <= EVERYBODY_BURST + EVERYBODY_A_SECOND


async def test_who_was_known_before_a_flood_is_not_held_back(house: House) -> None:
    assert await house.told(GOOD[0]) == ""
    for second in range(40):  # his is looked up anew every ten
        house.now = float(second)
        await house.flood(300, first=second * 300)
        await house.flood(300, "unix:", first=100_000 + second * 300)
        assert await house.told(GOOD[0]) == ""
    assert house.asked[id_of(GOOD[0])] == 40 / KNOWN_SECONDS


async def test_a_new_key_elsewhere_is_taken_and_here_when_it_is_told_to_come(house: House) -> None:
    await house.flood(150)
    assert await house.told(GOOD[0], THERE) == ""
    assert await house.told(GOOD[1], HERE) == "KEYS_TRIED_TOO_OFTEN"
    house.now = 1 / ADDRESS_A_SECOND
    assert await house.told(GOOD[1], HERE) == ""


async def test_an_operator_s_key_costs_no_look_up_and_no_try(house: House) -> None:
    await house.flood(300)
    await house.flood(300, "unix:", first=1_000)
    assert await house.told(GOOD[-1]) == ""


async def test_good_keys_cost_nothing_however_many_are_new(house: House) -> None:
    """As after a start."""
    assert {await house.told(text) for text in GOOD} == {""}
    assert await house.flood(int(ADDRESS_BURST)) == {"API_KEY_UNKNOWN": ADDRESS_BURST}


async def test_what_is_told_says_not_whether_the_id_is_there(house: House) -> None:
    """Of an id that this gateway knows, of one that it does not, and of one that nobody has."""
    await house.told(GOOD[0])

    def guesses(at: int) -> list[str]:
        return [key(10**6, b"x"), key(10**6 + at, b"x"), key(at)]

    for guess in guesses(1):
        assert [await house.told(guess) for _ in range(3)] == ["API_KEY_UNKNOWN"] * 3
    left = await house.flood(300, first=1_000)
    assert left["API_KEY_UNKNOWN"] == ADDRESS_BURST - 3, "one of them cost less than the others"
    house.now = AGAIN_SECONDS
    await house.flood(300, first=2_000)
    assert [await house.told(guess) for guess in guesses(2)] == ["KEYS_TRIED_TOO_OFTEN"] * 3


async def test_calls_with_one_key_wait_for_one_look_up(house: House) -> None:
    house.answers.clear()
    calls = [asyncio.create_task(house.told(GOOD[0])) for _ in range(50)]
    await asyncio.sleep(0)
    calls[0].cancel()  # who began it leaves; it goes on for the others
    await asyncio.sleep(0)
    house.answers.set()
    assert await asyncio.gather(*calls[1:]) == [""] * 49
    assert house.asked.total() == 1


async def test_a_look_up_that_fails_is_told_to_who_waits_and_made_again(house: House) -> None:
    house.fails = True
    calls = [asyncio.create_task(house.told(GOOD[0])) for _ in range(3)]
    assert await asyncio.gather(*calls) == ["AWAY"] * 3
    house.fails = False
    assert await house.told(GOOD[0]) == ""


async def test_while_nobody_answers_only_so_many_look_ups_wait(house: House) -> None:
    house.answers.clear()
    calls = []
    for second in range(20):
        house.now = float(second)
        calls += [
            asyncio.create_task(house.flood(1, "unix:", second * 200 + n)) for n in range(200)
        ]
        await asyncio.sleep(0)
    assert house.asked.total() == MOST_LOOKED_UP
    house.answers.set()
    await asyncio.gather(*calls)


async def test_known_keys_have_a_bound_too(monkeypatch: pytest.MonkeyPatch, house: House) -> None:
    monkeypatch.setattr(of_keys, "MOST_REMEMBERED", 10)
    for text in GOOD[:30]:
        await house.told(text)
    assert [*house.keys._found] == [id_of(text) for text in GOOD[20:30]]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.7:4711", "192.0.2.7"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[2001:db8:1:2::9]:4711", "2001:db8:1:2::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:4711", "192.0.2.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::/64"),
        ("ipv4:127.0.0.1:4711", ""),
        ("ipv6:%5B::1%5D:4711", ""),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_where_a_call_is_from(peer: str, address: str) -> None:
    assert address_of(peer) == address
