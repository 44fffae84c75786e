"""Two plots as plain SVG: bars in groups, and lines over logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

COLOURS = ("#1b6ac9", "#5b9bd5", "#9dc3e6", "#c9a227", "#888888", "#b5b5b5", "#d0d0d0", "#a9745b",
           "#7a9b57", "#c46b8a", "#4b4b4b")  # fmt: skip
WIDTH, HEIGHT, LEFT, TOP, FOOT = 1100, 380, 60, 40, 90


def bars(path: Path, title: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Values from 0 to 1; a group a scenario, a bar a policy."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    parts = [_text(LEFT, 22, title, size=15)]
    for level in range(0, 11, 2):
        y = _up(level / 10)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{level / 10:.1f}", anchor="end"))
    room = (WIDTH - LEFT - 10) / max(1, len(groups))
    thick = room * 0.86 / max(1, len(names))
    for g, (group, values) in enumerate(groups.items()):
        x = LEFT + g * room + room * 0.07
        for name, value in values.items():
            i = names.index(name)
            parts.append(
                f'<rect x="{x + i * thick:.1f}" y="{_up(value):.1f}" width="{thick:.1f}" '
                f'height="{_up(0) - _up(value):.1f}" fill="{COLOURS[i % len(COLOURS)]}">'
                f"<title>{group}: {name} {value:.3f}</title></rect>"
            )
        parts.append(_text(x + room * 0.43, _up(0) + 16, group, anchor="middle", size=10))
    parts += _legend(names)
    _write(path, parts)


def lines(
    path: Path,
    title: str,
    x_label: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    unit: str = "microseconds",
) -> None:
    """Both axes are logarithmic."""
    points = [point for line in series.values() for point in line]
    low_x, high_x = (math.log10(f(x for x, _ in points)) for f in (min, max))
    low_y = math.floor(math.log10(min(y for _, y in points)))
    high_y = math.ceil(math.log10(max(y for _, y in points)))

    def at(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - low_x) / max(high_x - low_x, 1e-9)
        up = (math.log10(y) - low_y) / max(high_y - low_y, 1)
        return LEFT + 20 + right * (WIDTH - LEFT - 60), _up(up)

    parts = [_text(LEFT, 22, f"{title} ({unit}, over {x_label})", size=15)]
    for power in range(low_y, high_y + 1):
        _, y = at(10**low_x, 10**power)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{10**power:g}", anchor="end"))
    parts += [
        _text(at(x, 10**low_y)[0], _up(0) + 16, f"{x:,.0f}", anchor="middle")
        for x in sorted({x for x, _ in points})
    ]
    for i, line in enumerate(series.values()):
        colour = COLOURS[(3 * i) % len(COLOURS)]
        places = [at(x, y) for x, y in line]
        path_data = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="{path_data}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    parts += _legend(list(series), step=3)
    _write(path, parts)


def _up(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - FOOT)


def _legend(names: Sequence[str], step: int = 1) -> list[str]:
    parts, x, y = [], float(LEFT), HEIGHT - 48.0
    for i, name in enumerate(names):
        if x > WIDTH - 170:
            x, y = LEFT, y + 18
        colour = COLOURS[(step * i) % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="{y - 9}" width="11" height="11" fill="{colour}"/>')
        parts.append(_text(x + 16, y + 1, name))
        x += 34 + 6.6 * len(name)
    return parts


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{text}</text>'


def _write(path: Path, parts: Sequence[str]) -> None:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>'
    )
    path.write_text("\n".join([head, *parts, "</svg>"]) + "\n")
