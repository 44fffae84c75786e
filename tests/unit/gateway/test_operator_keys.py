"""Keys in a file beside the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from atelier.api_keys import ID_BYTES, SCOPES, SECRET_BYTES, new_key, read_key
from gateway.keys import Found
from gateway.operator_keys import OperatorKeys, keys_in

FIRST, SECOND = (new_key(bytes([n] * ID_BYTES), bytes([n] * SECRET_BYTES)) for n in (1, 2))


def id_of(text: str) -> str:
    key = read_key(text)
    assert key
    return key.id


async def nobody(key_id: str) -> Found | None:
    return None


def put(path: Path, text: str | None) -> None:
    path.unlink(missing_ok=True)
    if text is not None:
        path.with_name("new").write_text(text)
        path.with_name("new").replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "operators"
    path.write_text(FIRST + "\n")
    return path


async def test_a_key_of_the_file_has_every_scope(path: Path) -> None:
    find = OperatorKeys(path, "house").before(nobody)
    found = await find(id_of(FIRST))
    shown = read_key(FIRST)
    assert found and shown and shown.is_that_of(found.secret_hash)
    assert (found.caller.tenant, found.caller.scopes) == ("house", frozenset(SCOPES))
    assert await find(id_of(SECOND)) is None


async def test_one_key_takes_another_s_place_without_a_restart(path: Path) -> None:
    find = OperatorKeys(path, "house").before(nobody)

    async def taken() -> list[bool]:
        return [await find(id_of(text)) is not None for text in (FIRST, SECOND)]

    for text, good in (
        (f"{FIRST}\n{SECOND}\n", [True, True]),
        (f"{SECOND}\n", [False, True]),
        ("nonsense\n", [False, False]),
        (f"{FIRST}\n", [True, False]),
        (None, [False, False]),
        (f"{FIRST}\n", [True, False]),
    ):
        put(path, text)
        assert await taken() == good


def test_what_is_no_key_is_said_by_its_line_and_not_shown(path: Path) -> None:
    assert keys_in(f"\n{FIRST}\n{SECOND[:-1]}\n")[1] == [3]
    path.write_text(f"{FIRST}\n{SECOND[:-1]}\n")
    with pytest.raises(ValueError, match="line 2") as refused:
        OperatorKeys(path, "house")
    assert SECOND[:-1] not in str(refused.value)
    for text in ("", "\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="it is empty"):
            OperatorKeys(path, "house")
    path.unlink()
    with pytest.raises(ValueError, match="cannot read"):
        OperatorKeys(path, "house")
