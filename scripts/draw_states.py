"""Write docs/states.md from the state table; `--check` fails where the file differs."""

from __future__ import annotations

import sys
from pathlib import Path

from atelier.generation import FINAL, TRANSITIONS, State

PAGE = Path(__file__).parent.parent / "docs" / "states.md"

HEAD = """# The states of a generation

Drawn from the table in `atelier/generation.py` by `make states`; `make verify` finds a difference.
The same table fills the guards of the SQL (`atelier/sql/queries.sql`), so that code, database and
this page cannot disagree. A final state never changes.

```mermaid
stateDiagram-v2
    [*] --> QUEUED: submit
"""


def page() -> str:
    """The whole page."""
    arrows = [f"    {t.source} --> {t.target}: {t.event}" for t in TRANSITIONS]
    ends = [f"    {state} --> [*]" for state in State if state in FINAL]
    rows = [f"| {t.source} | {t.event} | {t.target} | {t.by} |" for t in TRANSITIONS]
    return (
        HEAD
        + "\n".join([*arrows, *ends])
        + "\n```\n\n| from | event | to | who moves it |\n|---|---|---|---|\n"
        + "| | submit | QUEUED | its caller; durable before it is acknowledged |\n"
        + "\n".join(rows)
        + "\n"
    )


def main() -> int:
    if "--check" in sys.argv:
        same = PAGE.exists() and PAGE.read_text() == page()
        sys.stdout.write("docs/states.md: " + ("as drawn\n" if same else "differs: make states\n"))
        return 0 if same else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
