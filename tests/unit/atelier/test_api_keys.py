"""The text of API keys."""

from __future__ import annotations

import hashlib

import pytest

from atelier.api_keys import ID_BYTES, KEY_ID, SECRET_BYTES, new_key, read_key

KEY = new_key(b"\x01" * ID_BYTES, b"\xff" * SECRET_BYTES)


def test_a_key_is_read_as_it_was_made() -> None:
    shown = read_key(KEY)
    assert shown and KEY_ID.fullmatch(shown.id) and KEY.startswith(f"atk_{shown.id}_")
    assert shown.is_that_of(hashlib.sha256(KEY.encode()).digest())
    assert not shown.is_that_of(bytes(32))


@pytest.mark.parametrize("fill", [0, 255])
def test_every_key_is_as_long(fill: int) -> None:
    text = new_key(bytes([fill]) * ID_BYTES, bytes([fill]) * SECRET_BYTES)
    assert len(text) == len(KEY) == 70
    assert read_key(text)


def test_what_was_cut_or_mistyped_is_no_key() -> None:
    cut = [KEY[:n] for n in range(len(KEY))]
    mistyped = [KEY[:n] + ("1" if KEY[n] != "1" else "2") + KEY[n + 1 :] for n in range(len(KEY))]
    longer = [KEY + "0", " " + KEY, KEY + "\n", "ik" + KEY[3:]]
    assert [text for text in cut + mistyped + longer if read_key(text)] == []


def test_a_repr_does_not_tell_it() -> None:
    shown = read_key(KEY)
    assert shown
    secret = KEY.split("_")[2]
    assert secret not in repr(shown) and repr(shown.secret_hash) not in repr(shown)
