"""Logs: one event a line on standard error, with the process and what is bound to it.

JSON for machines; on a terminal, words and colours (ATELIER_LOG_FORMAT=auto|json|console).

Whoever calls us may put into a value what he likes: it becomes no line, no colour and no megabyte
of ours (`_tame`). Prompts, keys and presigned URLs are never logged on purpose, and are taken out
where somebody forgot (`_redact`), also of what libraries say.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

MOST_CHARACTERS = 512  # of a value
MOST_OF_EXCEPTION = 16_384
MOST_ITEMS, MOST_DEPTH = 20, 3

_SECRET_NAMES = re.compile(
    r"authorization|password|passwd|api_?key|secret|access_key|admin_key|dsn|prompt|cookie", re.I
)
_SECRET_WORDS = (
    (re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+", re.I), r"\1***"),
    (re.compile(r"(://[^:/@\s]+:)[^@\s]+(?=@)"), r"\1***"),
    (re.compile(r"(\bBearer\s+)\S+", re.I), r"\1***"),
    (re.compile(r"\b(whsec|atk)_[A-Za-z0-9_+/=-]{8,}"), r"\1_***"),
    (re.compile(r"(\bpassword=)\S+", re.I), r"\1***"),
)
# What moves a cursor, ends a line, or turns the direction of text.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def configure_logging(process: str, level: str = "info", form: str = "auto") -> None:
    """Set up structlog for this process, and what libraries log by Python's own logging; call
    once, before anything is logged.

    Args:
        form: json, console, or auto: console where standard error is a terminal.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
        _tame,
    ]
    render: Processor = _console() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Told(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    foreign = logging.StreamHandler(sys.stderr)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    logging.basicConfig(handlers=[foreign], level=max(number, logging.WARNING), force=True)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)


class _Told:
    """A stream on which a line that cannot be written is left out: a full disk, or a reader that
    went, must not end the work that the line tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _console() -> Processor:
    """Words and colours; of exceptions what `_tame` left."""
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        event[key] = _redacted(key, value)
    return event


def _redacted(key: str, value: Any) -> Any:
    if _SECRET_NAMES.search(key):
        return "***"
    if isinstance(value, Mapping):
        return {inner: _redacted(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", item) for item in value]
    if isinstance(value, str | bytes) or not isinstance(value, int | float | bool | None):
        text = value if isinstance(value, str) else str(value)
        text = text[: MOST_OF_EXCEPTION + 1]
        for pattern, masked in _SECRET_WORDS:
            text = pattern.sub(masked, text)
        return text
    return value


def _tame(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    tamed = {}
    for key, value in event.items():
        if key == "exception" and isinstance(value, str):
            lines = value[:MOST_OF_EXCEPTION].split("\n")
            tamed[key] = "\n".join(f"  | {_plain(line)}" for line in lines)
        else:
            tamed[_plain(key)] = _tamed(value, MOST_DEPTH)
    return tamed


def _tamed(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        cut = value[:MOST_CHARACTERS] + "..." if len(value) > MOST_CHARACTERS else value
        return _plain(cut)
    if isinstance(value, Mapping | list):
        if depth == 0:
            return "..."
        if isinstance(value, Mapping):
            items = list(value.items())[:MOST_ITEMS]
            return {_plain(str(k)): _tamed(v, depth - 1) for k, v in items}
        return [_tamed(item, depth - 1) for item in value[:MOST_ITEMS]]
    return value


def _plain(text: str) -> str:
    """With controls as they would be written in a program."""
    return _CONTROLS.sub(lambda m: m[0].encode("unicode_escape").decode(), text)
