"""Label values that cannot become too many. Pure.

A metric has a series for each combination of its labels, for as long as its process lives. So what
callers make up (tenants), and what is long (models, reasons), is named only up to a bound, and is
`other` beyond it.
"""

from __future__ import annotations

OTHER = "other"
TRIED = 64  # of those without a name, for how many it is counted how often they come
OFTEN = 100  # times in which one shows that it deserves a name


class Capped:
    """At most `most` names: half for the first that come, half for those that come often.

    Names are never taken back, for a series that changed its meaning would be a lie. Who comes
    often is found as Misra and Gries do it (1982): counts of TRIED at a time, lowered together when
    another comes; so ten thousand that come once take no name from one that stays.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._named: set[str] = set()
        self._tried: dict[str, int] = {}

    def __call__(self, value: str) -> str:
        """The value, or `other`; empty stays empty."""
        if value in self._named or not value:
            return value
        if len(self._named) < self._most / 2:
            self._named.add(value)
            return value
        if len(self._named) < self._most:
            self._count(value)
        return OTHER

    def _count(self, value: str) -> None:
        if value in self._tried or len(self._tried) < TRIED:
            self._tried[value] = self._tried.get(value, 0) + 1
            if self._tried[value] >= OFTEN:
                del self._tried[value]
                self._named.add(value)
        else:
            self._tried = {v: n - 1 for v, n in self._tried.items() if n > 1}


def rows_of(rows: int) -> str:
    """Rows of a batch, in six sizes."""
    for bound, name in ((1, "1"), (2, "2"), (4, "3-4"), (8, "5-8"), (16, "9-16")):
        if rows <= bound:
            return name
    return "17+"
