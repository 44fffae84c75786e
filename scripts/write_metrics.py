"""Write docs/metrics.md from the table of instruments; `--check` fails where the file differs."""

from __future__ import annotations

import sys
from pathlib import Path

from atelier.instruments import INSTRUMENTS, Instrument

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

HEAD = """# Metrics

Written from the table in `atelier/instruments.py` by `make metrics`; `make verify` finds a
difference.

Each process serves its own to Prometheus, where it is told an address: `ATELIER_METRICS_LISTEN`
(scheduler), `ATELIER_GATEWAY_METRICS_LISTEN`, `ATELIER_AGENT_METRICS_LISTEN`,
`ATELIER_WEBHOOKS_METRICS_LISTEN` ([operations.md](operations.md#metrics)). A histogram has
`_bucket`, `_sum` and `_count`. Beside these, each process tells its CPU seconds, memory and open
files (`process_*`) and its name (`target_info`).

What callers make up makes no series: tenants, models and reasons have names up to a bound (20, 50
and 30), half of them for the first that come and half for those that come often, and are `other`
beyond it (`atelier/labels.py`). Of more than 300 devices, the first 300 have series of their own.
"""


def row(declared: Instrument) -> str:
    """One line of a table."""
    labels = ", ".join(f"`{label.replace('.', '_')}`" for label in declared.labels)
    cells = (f"`{declared.prometheus}`", declared.kind.value, labels, declared.help, declared.worry)
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """The whole page: a table for each set of processes that have the same ones."""
    text = HEAD
    for parts in dict.fromkeys(declared.parts for declared in INSTRUMENTS):
        text += f"\n## Of {', '.join(parts)}\n\n"
        text += "| metric | kind | labels | what it is | worry when |\n|---|---|---|---|---|\n"
        text += "".join(f"{row(declared)}\n" for declared in INSTRUMENTS if declared.parts == parts)
    return text


def main() -> int:
    if "--check" in sys.argv:
        same = PAGE.exists() and PAGE.read_text() == page()
        word = "as written\n" if same else "differs: make metrics\n"
        sys.stdout.write(f"docs/metrics.md: {word}")
        return 0 if same else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
