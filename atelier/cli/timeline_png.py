"""A chart as a picture. By Pillow, which is here for what is generated: no other library."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont

from atelier.cli.timeline_chart import Box, Chart, Words

SCALE = 2  # pixels for one of the sheet
MOST_PIXELS = 16_000  # of a side
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def write_png(chart: Chart, path: Path) -> None:
    """Draw it to a file.

    Raises:
        OSError: it cannot be written.
    """
    scale = min(SCALE, MOST_PIXELS / chart.height)
    size = round(chart.width * scale), round(chart.height * scale)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image, "RGBA")
    fonts: dict[float, FreeTypeFont | ImageFont.ImageFont] = {}
    for shape in chart.shapes:
        if isinstance(shape, Words):
            font = fonts.setdefault(shape.size, ImageFont.load_default(shape.size * scale))
            draw.text(
                (shape.x * scale, shape.y * scale), shape.text, shape.fill, font,
                anchor=_ANCHORS[shape.anchor], stroke_width=0.4 * scale if shape.bold else 0,
            )  # fmt: skip
        else:
            _box(draw, shape, scale)
    image.save(path, "PNG", optimize=True)


def _box(draw: ImageDraw.ImageDraw, box: Box, scale: float) -> None:
    left, top = box.x * scale, box.y * scale
    right = max(left, left + box.width * scale - 1)
    bottom = max(top, top + box.height * scale - 1)
    red, green, blue = ImageColor.getrgb(box.fill)[:3]
    alpha = round(255 * box.opacity * (0.35 if box.hatched else 1))
    draw.rectangle((left, top, right, bottom), (red, green, blue, alpha))
    if box.hatched:  # strokes from the lower left to the upper right, cut off at its sides
        height, step = bottom - top, 5 * scale
        start = left - height
        while start < right:
            first, last = max(start, left), min(start + height, right)
            if last > first:
                ends = (first, bottom - (first - start), last, bottom - (last - start))
                draw.line(ends, (red, green, blue, 255), round(1.5 * scale))
            start += step
