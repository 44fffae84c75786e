"""What bench_steps found, as tables and a plot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.step_cost import PARTS

Row = dict[str, Any]


def share_of_full(row: Row, rows: int = 8) -> float:
    """Of the calls that had as many rows, or more."""
    calls = sum(row["batches"].values())
    return float(sum(n for size, n in row["batches"].items() if int(size) >= rows) / calls)


def tables(cost: list[Row], ways: list[Row], like: list[Row], told: list[Row], load: float) -> str:
    lines = [
        "# What a step costs, and what batching by steps is worth",
        "",
        f"As `make bench-steps` measured it on {os.cpu_count()} cores without a GPU; the load"
        f" average was {load:.1f} when it began.",
        "What is behind the words: [docs/steps.md](../../docs/steps.md).",
        "",
        "| claim | value | unit | goal | holds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {c['name']} | {c['value']:g} | {c['unit']} | {c['goal']} |"
        f" {'yes' if c['holds'] else 'NO'} |"
        for c in told
    ]
    lines += [
        "",
        "## What a step costs beside Triton's own computing",
        "",
        "Medians in milliseconds, for latents of 4x64x64 and embeddings of 77x768. What the parts"
        " are: benchmarks/step_cost.py.",
        "",
        "| rows | sampler | tensors through | " + " | ".join(PARTS) + " | overhead, p90 |",
        "|---|---|---|" + "---|" * (len(PARTS) + 1),
    ]
    for c in cost:
        cells = [str(c["rows"]), c["sampler"], c["way"], *(f"{c[part]:.2f}" for part in PARTS)]
        lines.append(f"| {' | '.join(cells)} | {c['overhead_p90']:.2f} |")
    for device in dict.fromkeys(row["device"] for row in ways):
        lines += [
            "",
            f"## Ways of batching: {device}",
            "",
            "| callers | way | pictures/s | p50, s | p99, s | rows a call | calls of 8 rows and"
            " more | of the ideal | device busy |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['callers']} | {row['way']} | {row['pictures_per_second']:.2f}"
            f" | {row['p50_seconds']:.2f} | {row['p99_seconds']:.2f} | {row['rows_per_call']:.1f}"
            f" | {share_of_full(row):.0%}"
            + "".join(
                f" | {row[n]:.1%}" if n in row else " | " for n in ("of_ideal", "device_busy")
            )
            + " |"
            for row in ways
            if row["device"] == device
        ]
    lines += [
        "",
        "## The same picture, otherwise batched (tiny-image)",
        "",
        "| what | pictures | largest difference of latents | of pixels | PSNR, dB | equal bytes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['what']} | {row['pictures']} | {row['max_abs_latents']:g}"
        f" | {row['max_abs_pixels']} | {row['psnr']:g} | {row['equal_pictures']} |"
        for row in like
    ]
    return "\n".join(lines) + "\n"


def draw(ways: list[Row], path: Path) -> None:
    """Shares of the ideal on the sleeping model."""
    groups: dict[str, dict[str, float]] = {}
    for row in ways:
        if "of_ideal" in row:
            group = groups.setdefault(f"{row['callers']} callers", {})
            group[row["way"]] = row["of_ideal"]
    plot.bars(path, "Pictures a second, of what a device that is never idle would make", groups)
