"""What a run of the fuzzer found, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.claims import claim
from tests.fuzz.run import Found

MOST_COMPLAINTS = 50  # told in full


def write(parts: dict[str, Found], told: dict[str, Any], folder: Path) -> None:
    """`fuzz.json` and `fuzz.md`.

    Args:
        parts: what was found behind each port.
        told: what else there is to say: the seed, the memory of the processes.
    """
    complaints = [wrong for found in parts.values() for wrong in found.complaints]
    claims = [
        claim("answers that are not documented", len(complaints), "", 0, not complaints),
        claim("faults in the logs", len(told["faults"]), "", 0, not told["faults"]),
    ]
    report = {
        "claims": claims,
        **told,
        "parts": {
            name: {
                "cases": found.cases,
                "ways": dict(found.ways),
                "ends": {method: dict(ends) for method, ends in sorted(found.ends.items())},
            }
            for name, found in parts.items()
        },
        "complaints": complaints[:MOST_COMPLAINTS],
    }
    (folder / "fuzz.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    (folder / "fuzz.md").write_text("\n".join(_page(parts, report)) + "\n")


def _page(parts: dict[str, Found], report: dict[str, Any]) -> list[str]:
    lines = [
        "# Fuzzing",
        "",
        f"`make fuzz CASES={report['asked']} FUZZ_SEED={report['seed']}`.",
        "",
    ]
    lines += ["| what | found | goal | holds |", "|---|---|---|---|"]
    lines += [
        f"| {c['name']} | {c['value']:g} | {c['goal']:g} | {'yes' if c['holds'] else 'NO'} |"
        for c in report["claims"]
    ]
    for name, before in report["resident_mb"].items():
        lines.append(f"| {name}: memory before and after, MB | {before[0]}, {before[1]} | | |")
    for name, found in parts.items():
        lines += ["", f"## {name}: {found.cases:,} cases", ""]
        if found.ways:
            ways = ", ".join(f"{way} {number:,}" for way, number in found.ways.most_common())
            lines += [f"Of ways: {ways}.", ""]
        lines += ["| ended as | cases |", "|---|---|"]
        ends = sum(found.ends.values(), Counter())
        lines += [f"| {end} | {number:,} |" for end, number in ends.most_common()]
        lines += ["", "| method | cases | OK | UNREADABLE | other |", "|---|---|---|---|---|"]
        for method, of_it in sorted(found.ends.items()):
            known = of_it["OK"], of_it["INVALID_ARGUMENT UNREADABLE"]
            rest = of_it.total() - sum(known)
            lines.append(
                f"| {method} | {of_it.total():,} | {known[0]:,} | {known[1]:,} | {rest:,} |"
            )
    for wrong in report["complaints"]:
        lines.append(f"- {wrong['method']} ({wrong['way']}): {wrong['wrong']} `{wrong['request']}`")
    return lines
