"""What somebody may have meant, for errors. Pure."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

_TOLD = 20  # names; more help nobody
_LONGEST = 100  # characters of what was said; more is no slip of the finger


def known_names(said: str, known: Collection[str]) -> str:
    """In words: which names there are, and which of them is near to what was said."""
    names = sorted(known)
    if not names:
        return "there are none: leave it empty"
    words = ", ".join(names[:_TOLD])
    if more := len(names) - _TOLD:
        words += f" and {more} more" if more > 0 else ""
    near = get_close_matches(said[:_LONGEST].lower(), names, n=1)
    return f"did you mean {near[0]}? There are: {words}" if near else f"there are: {words}"


def nearest_of(value: float, minimum: float, maximum: float, multiple_of: float) -> float:
    """The value within bounds, of which `minimum` and `maximum` are multiples where that matters,
    that is nearest to a finite one."""
    value = min(max(value, minimum), maximum)
    if not multiple_of:
        return value
    rounded = round(value / multiple_of) * multiple_of
    if rounded < minimum:
        return rounded + multiple_of
    return rounded - multiple_of if rounded > maximum else rounded
