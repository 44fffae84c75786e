"""The database in memory: the statements of atelier/sql/queries.sql over dictionaries.

Guards come from the same table of transitions, and which statements ask for the epoch is read out
of queries.sql itself. `tests/integration/test_tables_as_postgres.py` holds it to PostgreSQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

from atelier.errors import DeposedError
from atelier.generation import FINAL, Event, State, sources

Row = dict[str, Any]

LONG_AGO = datetime.min.replace(tzinfo=UTC)
_SQL = [p.read_text() for p in (files("atelier") / "sql").iterdir() if p.name.endswith(".sql")]
_STATEMENTS = [part for text in _SQL for part in text.split("-- name: ")[1:]]
FENCED = {part.split("\n", 1)[0] for part in _STATEMENTS if "{fence}" in part}
_NEW: Row = {
    "state": "QUEUED", "attempt": 0, "lease_token": None, "device": "", "cancel_requested": False,
    "start_time": None, "finish_time": None, "results": None, "failure": None, "provenance": None,
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """One event of a generation, as it was committed."""

    generation_id: str
    event: str
    attempt: int
    token: int | None  # that it ran under, before and (a claim) after
    state: State  # after it
    epoch: int | None
    at: float
    detail: Mapping[str, Any] = field(default_factory=dict)


class Tables:
    """`wall`: its clock; `now`: the one by which events are dated for checks."""

    def __init__(self, wall: Callable[[], datetime], now: Callable[[], float]) -> None:
        self.generations: dict[str, Row] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.events: list[Written] = []
        self.epoch, self.holder, self.expires_at = 0, "", LONG_AGO
        self.drained: dict[str, str] = {}
        self.pinned: set[tuple[str, str]] = set()
        self.last_order = 0  # its number
        self.refused = 0  # writes of who was deposed
        self._token = 0
        self._wall, self._now = wall, now
        self._writer: int | None = None

    def run(self, query: str, arguments: Mapping[str, Any]) -> list[Row]:
        """What the statement of that name gives. Raises DeposedError."""
        self._writer = arguments.get("epoch")
        if query in FENCED and self._writer is not None and self._writer != self.epoch:
            self.refused += 1
            raise DeposedError
        statement = getattr(self, f"_{query}", None)
        assert statement, f"tests/simulated/tables.py does not know {query!r}: add it"
        return [dict(row) for row in statement(dict(arguments))]

    # Generations.

    def _insert_generations(self, a: Row) -> list[Row]:
        new = []
        for given in sorted(json.loads(a["rows"]), key=lambda row: row["id"]):
            key = given["tenant"], given["request_id"]
            if given["id"] in self.generations or (key[1] and key in self.keys):
                continue
            times = {
                "create_time": _time(given["create_time"]),
                "deadline": _time(given["deadline"]),
            }
            row = self.generations[given["id"]] = {**_NEW, **given, **times}
            if key[1]:
                self.keys[key] = given["id"]
            self._note(row, "submit")
            new.append(row)
        return new

    def _find_submitted(self, a: Row) -> list[Row]:
        ids = {str(i) for i in a["ids"]}
        keyed = {self.keys.get(key) for key in zip(a["tenants"], a["request_ids"], strict=True)}
        return [
            self.generations[i] for i in sorted((ids | keyed) - {None}) if i in self.generations
        ]

    def _read(self, a: Row) -> list[Row]:
        return [row for row in self._look(a) if row["tenant"] == a["tenant"]]

    def _look(self, a: Row) -> list[Row]:
        row = self.generations.get(str(a["id"]))
        return [row] if row else []

    def _requeued_for(self, a: Row) -> list[Row]:
        times = sum(
            e.event == "requeue" and e.detail.get("reason") in a["reasons"]
            for e in self.events
            if e.generation_id == a["id"]
        )
        return [{"times": times}]

    def _unfinished(self, a: Row) -> list[Row]:
        after = str(a["after"])
        waiting = [r for i, r in sorted(self.generations.items()) if i > after and not _ended(r)]
        return waiting[: a["limit"]]

    def _standing(self, a: Row) -> list[Row]:
        rows = [row for _, row in sorted(self.generations.items()) if not _ended(row)]
        return [{"id": row["id"], "lease_token": row["lease_token"]} for row in rows]

    def _claim(self, a: Row) -> list[Row]:
        if not (row := self._movable(a, Event.CLAIM)) or row["cancel_requested"]:
            return []
        self._token += 1
        row |= {
            "state": "RUNNING", "attempt": row["attempt"] + 1, "lease_token": self._token,
            "device": a["device"], "start_time": self._wall(),
        }  # fmt: skip
        return self._moved(row, "claim", self._token, {"device": a["device"]})

    def _publish(self, a: Row) -> list[Row]:
        results = {"results": json.loads(a["results"]), "provenance": json.loads(a["provenance"])}
        return self._by_token(a, Event.PUBLISH, State.SUCCEEDED, **results)

    def _requeue(self, a: Row) -> list[Row]:
        row = self._movable(a, Event.REQUEUE)
        if not row or row["lease_token"] != a["lease_token"] or row["cancel_requested"]:
            return []
        token = row["lease_token"]
        row |= {"state": "QUEUED", "lease_token": None}
        return self._moved(row, "requeue", token, json.loads(a["detail"]))

    def _fail(self, a: Row) -> list[Row]:
        return self._by_token(a, Event.FAIL, State.FAILED, failure=json.loads(a["failure"]))

    def _expire(self, a: Row) -> list[Row]:
        row = self._movable(a, Event.EXPIRE)
        if not row or not row["deadline"] or row["deadline"] >= self._wall():
            return []
        return self._end(row, "expire", State.EXPIRED, failure=json.loads(a["failure"]))

    def _request_cancel(self, a: Row) -> list[Row]:
        row = self._movable(a, Event.CANCEL)
        if not row or row["tenant"] != a["tenant"]:
            return []
        row["cancel_requested"] = True
        if row["state"] == "QUEUED":
            return self._end(row, "cancel", State.CANCELLED)
        return self._moved(row, "cancel_requested", row["lease_token"])

    def _cancel_running(self, a: Row) -> list[Row]:
        row = self._movable(a, Event.CANCEL)
        if not row or not row["cancel_requested"]:
            return []
        return self._by_token(a, Event.CANCEL, State.CANCELLED)

    def _movable(self, a: Row, event: Event) -> Row | None:
        """The row, where the table of transitions lets the event move it."""
        row = self.generations.get(str(a["id"]))
        return row if row and State(row["state"]) in sources(event) else None

    def _by_token(self, a: Row, event: Event, state: State, **values: Any) -> list[Row]:
        row = self._movable(a, event)
        if not row or row["lease_token"] != a["lease_token"]:
            return []
        return self._end(row, event.value, state, **values)

    def _end(self, row: Row, event: str, state: State, **values: Any) -> list[Row]:
        token = row["lease_token"]
        row |= {"state": str(state), "lease_token": None, "finish_time": self._wall(), **values}
        return self._moved(row, event, token)

    def _moved(
        self, row: Row, event: str, token: int | None, detail: Mapping[str, Any] | None = None
    ) -> list[Row]:
        self._note(row, event, token, detail)
        return [row]

    def _note(
        self,
        row: Row,
        event: str,
        token: int | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        self.events.append(
            Written(row["id"], event, row["attempt"], token, State(row["state"]), self._writer,
                    self._now(), detail or {})
        )  # fmt: skip

    # Who leads.

    def _leader(self, a: Row) -> list[Row]:
        left = self.expires_at - self._wall() if self.expires_at > LONG_AGO else timedelta(-1)
        leads, fresh = left > timedelta(0), left > timedelta(seconds=1.5)
        return [{"epoch": self.epoch, "holder": self.holder, "leads": leads, "fresh": fresh,
                 "until": str(self.expires_at)}]  # fmt: skip

    def _lead(self, a: Row) -> list[Row]:
        [seen] = self._leader(a)
        kept = seen["fresh" if seen["holder"] == a["holder"] else "leads"]
        if kept and seen["until"] != a["unrenewed"]:
            return []
        self.epoch, self.holder = self.epoch + 1, a["holder"]
        self.expires_at = self._wall() + timedelta(seconds=a["lease_seconds"])
        return [{"epoch": self.epoch}]

    def _renew(self, a: Row) -> list[Row]:
        if a["epoch"] != self.epoch:
            return []
        self.expires_at = self._wall() + timedelta(seconds=a["lease_seconds"])
        return [{"epoch": self.epoch}]

    def _resign(self, a: Row) -> list[Row]:
        if a["epoch"] == self.epoch:
            self.expires_at = LONG_AGO
        return []

    # Standing orders, and days.

    def _standing_orders(self, a: Row) -> list[Row]:
        drained = [{"device_id": d, "model": None, "reason": w} for d, w in self.drained.items()]
        pins = sorted(self.pinned)
        return drained + [{"device_id": d, "model": m, "reason": None} for d, m in pins]

    def _next_order(self, _: Row) -> list[Row]:
        self.last_order += 1
        return [{"number": self.last_order}]

    def _drain(self, a: Row) -> list[Row]:
        return self._ordered(a, lambda: self.drained.update({a["device_id"]: a["reason"]}))

    def _undrain(self, a: Row) -> list[Row]:
        return self._ordered(a, lambda: self.drained.pop(a["device_id"], None))

    def _pin(self, a: Row) -> list[Row]:
        return self._ordered(a, lambda: self.pinned.add((a["device_id"], a["model"])))

    def _unpin(self, a: Row) -> list[Row]:
        return self._ordered(a, lambda: self.pinned.discard((a["device_id"], a["model"])))

    def _ordered(self, a: Row, do: Callable[[], object]) -> list[Row]:
        is_latest, before = a["number"] == self.last_order, (dict(self.drained), set(self.pinned))
        if is_latest:
            do()
        changed = "reason" in a or before != (self.drained, self.pinned)
        return [{"is_latest": is_latest, "changed": is_latest and changed}]

    def _plans(self, a: Row) -> list[Row]:
        return []

    def _roll_up_usage(self, a: Row) -> list[Row]:
        return [{"taken": 0}]

    def _make_days(self, a: Row) -> list[Row]:
        return [{"made": 0}]

    def _past_day(self, a: Row) -> list[Row]:
        return []


def _ended(row: Row) -> bool:
    return State(row["state"]) in FINAL


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
