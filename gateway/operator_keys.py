"""Keys in a file beside the gateway: an operator's, from which all others come.

Without them the first key of a new house could be made only by whoever nobody asks for one. They
hold while the scheduler and the database are away, too. Two lines let one take the other's place.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from atelier.api_keys import SCOPES, ShownKey, read_key
from gateway.identity import Caller
from gateway.keys import Find, Found

log = structlog.get_logger()


class OperatorKeys:
    """Looked at again when the file has changed; a file that cannot be read holds no key.

    Raises:
        ValueError: at first there is no such file, or something in it is no key.
    """

    def __init__(self, path: Path, tenant: str) -> None:
        self._path = path
        self._tenant = tenant
        try:
            self._seen = self._stamp()
            self._keys, bad = keys_in(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"ATELIER_OPERATOR_KEYS: cannot read {path}: {error}") from error
        if bad or not self._keys:
            where = f"line {bad[0]}" if bad else "it is empty"
            raise ValueError(
                f"ATELIER_OPERATOR_KEYS: {path} must hold an API key a line ({where} does not):"
                " `atelier keys draw` makes one"
            )

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def before(self, find: Find) -> Find:
        """Finds these keys, and with `find` the others."""

        async def found(key_id: str) -> Found | None:
            key = self._current().get(key_id)
            if key is None:
                return await find(key_id)
            who = Caller(self._tenant, frozenset(SCOPES), key.id)
            return Found(who, key.secret_hash, expire_time=None, revoked=False)

        return found

    def _current(self) -> dict[str, ShownKey]:
        try:
            if (stamp := self._stamp()) != self._seen:
                self._keys, bad = keys_in(self._path.read_text())
                self._seen = stamp
                log.info("operator's keys changed", keys=sorted(self._keys), bad_lines=bad)
        except (OSError, UnicodeDecodeError) as error:
            if self._keys:
                log.warning("operator's keys cannot be read: none is taken", error=str(error))
            self._keys, self._seen = {}, (0, 0)
        return self._keys

    def _stamp(self) -> tuple[int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_ino


def keys_in(text: str) -> tuple[dict[str, ShownKey], list[int]]:
    """The keys of a file by their ids, and the numbers of the lines that are none."""
    keys: dict[str, ShownKey] = {}
    bad = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if key := read_key(line.strip()):
            keys[key.id] = key
        else:
            bad.append(number)
    return keys, bad
