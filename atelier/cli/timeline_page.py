"""A chart as a page of its own: SVG and a little script to zoom, nothing from any network. Pure."""

from __future__ import annotations

from html import escape

from atelier.cli.timeline_chart import LEFT, RIGHT, Box, Chart, Shape, Words

# Without the script the page is the whole picture, with its tips; with it, the wheel zooms where
# the pointer is, dragging moves, a double click shows all again.
_SCRIPT = """
const svg = document.querySelector("svg"), LEFT = %(left)s, WIDTH = %(width)s, ALL = %(seconds)s;
const boxes = [...svg.querySelectorAll("[data-a]")].map(e => (
    {e, a: +e.dataset.a, b: +e.dataset.b, least: +e.dataset.least}));
const ticks = svg.querySelector("#ticks");
const top_ = +ticks.dataset.top, bottom = +ticks.dataset.bottom;
let from = 0, to = ALL, held = null;
function nice(s) {
  const p = 10 ** Math.floor(Math.log10(s));
  return [1, 2, 5, 10].map(n => n * p).find(n => n >= s);
}
function place() {
  const k = WIDTH / (to - from);
  for (const {e, a, b, least} of boxes) {
    const x = Math.max(0, (a - from) * k), end = Math.min(WIDTH, (b - from) * k);
    const seen = b >= from && a <= to;
    e.style.display = seen ? "" : "none";
    if (!seen) continue;
    e.setAttribute("x", LEFT + Math.min(x, WIDTH - least));
    e.setAttribute("width", Math.max(least, end - x));
  }
  const step = nice((to - from) / 10);
  let drawn = "";
  for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
    const x = LEFT + (t - from) * k;
    drawn += `<rect x="${x}" y="${top_}" width="1" height="${bottom - top_}" fill="#e1e6eb"/>` +
      `<text x="${x}" y="${bottom + 16}" font-size="11" fill="#66727f" text-anchor="middle">` +
      `${+t.toPrecision(10)} s</text>`;
  }
  ticks.innerHTML = drawn;
}
function at(event) {
  const box = svg.getBoundingClientRect();
  const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
  return Math.min(1, Math.max(0, (x - LEFT) / WIDTH));
}
svg.addEventListener("wheel", event => {
  event.preventDefault();
  const where = from + at(event) * (to - from), factor = event.deltaY > 0 ? 1.25 : 0.8;
  const wide = Math.min(ALL, Math.max(ALL / 1e5, (to - from) * factor));
  from = Math.min(ALL - wide, Math.max(0, where - at(event) * wide));
  to = from + wide;
  place();
}, {passive: false});
svg.addEventListener("pointerdown", event => { held = {at: at(event), from}; });
addEventListener("pointerup", () => { held = null; });
svg.addEventListener("pointermove", event => {
  if (!held) return;
  const wide = to - from;
  from = Math.min(ALL - wide, Math.max(0, held.from - (at(event) - held.at) * wide));
  to = from + wide;
  place();
});
svg.addEventListener("dblclick", () => { from = 0; to = ALL; place(); });
place();
"""


def page(chart: Chart) -> str:
    """The whole page."""
    script = _SCRIPT % {
        "left": LEFT, "width": chart.width - LEFT - RIGHT, "seconds": chart.seconds,
    }  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Timeline</title>\n'
        "<style>body{margin:0;background:#fff}svg{width:100%;height:auto;display:block;"
        "font-family:system-ui,sans-serif;cursor:grab;user-select:none}"
        "rect{shape-rendering:crispEdges}"
        "p{font:12px system-ui,sans-serif;color:#66727f;margin:4px 24px}</style></head><body>\n"
        f"{svg(chart)}\n<p>Point at a block for what it is. The wheel zooms, dragging moves,"
        " a double click shows all.</p>\n"
        f"<script>{script}</script></body></html>\n"
    )


def svg(chart: Chart) -> str:
    """The chart as an SVG element."""
    ticks = [s for s in chart.shapes if s.kind in ("grid", "tick")]
    grid = next((s for s in ticks if isinstance(s, Box)), None)
    top, bottom = (grid.y, grid.y + grid.height) if grid else (0.0, chart.height)
    drawn: list[str] = []
    for shape in chart.shapes:
        if ticks and shape is ticks[0]:
            inside = "".join(_element(tick) for tick in ticks)
            drawn.append(f'<g id="ticks" data-top="{top:g}" data-bottom="{bottom:g}">{inside}</g>')
        if shape.kind not in ("grid", "tick"):
            drawn.append(_element(shape))
    hatch = (
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse"'
        ' patternTransform="rotate(45)"><rect width="3" height="6" fill="#fff" opacity="0.55"/>'
        "</pattern></defs>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {chart.width:g} {chart.height:g}">'
        f"{hatch}{''.join(drawn)}</svg>"
    )


def _element(shape: Shape) -> str:
    if isinstance(shape, Words):
        weight = ' font-weight="600"' if shape.bold else ""
        return (
            f'<text x="{shape.x:.2f}" y="{shape.y:.2f}" font-size="{shape.size:g}"'
            f' fill="{shape.fill}" text-anchor="{shape.anchor}"{weight}>{escape(shape.text)}</text>'
        )
    tip = f"<title>{escape(shape.tip)}</title>" if shape.tip else ""
    where = ""
    if shape.span:
        least = 0 if shape.kind == "wait" else min(3.0, max(0.5, shape.width))
        least = 3 if shape.kind == "mark" else min(1, least)
        a, b = shape.span
        where = f' data-a="{a:.6f}" data-b="{b:.6f}" data-least="{least:g}"'
    place = (
        f'x="{shape.x:.2f}" y="{shape.y:.2f}" width="{shape.width:.2f}"'
        f' height="{shape.height:.2f}"{where}'
    )
    opacity = f' opacity="{shape.opacity:g}"' if shape.opacity < 1 else ""
    kind = f' class="{shape.kind}"' if shape.kind else ""
    box = f'<rect {place} fill="{shape.fill}"{opacity}{kind}>{tip}</rect>'
    if shape.hatched:
        box += f'<rect {place} fill="url(#hatch)" pointer-events="none"/>'
    return box
