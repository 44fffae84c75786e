"""Shows a picture in the terminal, by the best means that it has."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Literal

from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.text import Text

Means = Literal["kitty", "iterm2", "blocks", "none"]
COLUMNS = 32  # of a picture drawn by the terminal itself; a cell is about twice as high as wide
MOST_COLUMNS = 64  # of one drawn in half blocks, two pixels a cell
BAR_ROWS = 3  # left free below a picture that a progress bar stands under
_KITTY_CHUNK = 4096  # bytes of base64 in one escape sequence, by its protocol


def choose(environment: Mapping[str, str], *, terminal: bool, colors: bool) -> Means:
    """How a picture can be shown here. Multiplexers swallow images, so they get blocks.

    Args:
        colors: it has 256 or more; rich takes those that come nearest.
    """
    if not terminal:
        return "none"
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    multiplexed = "TMUX" in environment or term.startswith(("screen", "tmux"))
    if not multiplexed:
        if "KITTY_WINDOW_ID" in environment or "kitty" in term or program == "ghostty":
            return "kitty"
        if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
    return "blocks" if colors and term != "dumb" else "none"


def show(console: Console, file: bytes, means: Means) -> None:
    """Show a picture's file."""
    if means == "none":
        return
    with Image.open(BytesIO(file)) as picture:
        if means == "blocks":
            console.print(blocks(picture.convert("RGB"), min(MOST_COLUMNS, console.width)))
            return
        png = BytesIO()
        picture.save(png, "PNG")
    codes = kitty(png.getvalue()) if means == "kitty" else iterm2(png.getvalue())
    for code in codes:
        console.file.write(code)
    console.file.write("\n")
    console.file.flush()


def small(console: Console, file: bytes, means: Means) -> Text | None:
    """A picture to stand above a progress bar; in blocks everywhere, since only text can be drawn
    in the same place again. None where no picture can be shown."""
    if means == "none" or console.color_system not in ("256", "truecolor"):
        return None
    with Image.open(BytesIO(file)) as picture:
        rows = max(2, console.height - BAR_ROWS)  # of two pixels each, about as wide as high
        columns = min(COLUMNS, console.width, rows * 2 * picture.width // picture.height)
        return blocks(picture.convert("RGB"), max(1, columns))


def kitty(png: bytes) -> Iterator[str]:
    """Kitty's graphics protocol: chunks of base64, the first with the instructions."""
    data = base64.standard_b64encode(png).decode()
    chunks = [data[at : at + _KITTY_CHUNK] for at in range(0, len(data), _KITTY_CHUNK)]
    for index, chunk in enumerate(chunks):
        more = int(index + 1 < len(chunks))
        control = f"a=T,f=100,q=2,c={COLUMNS},m={more}" if index == 0 else f"m={more}"
        yield f"\x1b_G{control};{chunk}\x1b\\"


def iterm2(png: bytes) -> Iterator[str]:
    """iTerm2's inline images, which WezTerm knows too."""
    data = base64.standard_b64encode(png).decode()
    yield f"\x1b]1337;File=inline=1;size={len(png)};width={COLUMNS}:{data}\x07"


def blocks(picture: Image.Image, columns: int) -> Text:
    """Half blocks: the upper pixel is the foreground, the lower the background."""
    width = min(columns, picture.width)
    height = max(2, round(picture.height * width / picture.width))
    small = picture.resize((width, height + height % 2), Image.Resampling.BOX)
    pixels = small.tobytes()
    colors = [f"#{pixels[at : at + 3].hex()}" for at in range(0, len(pixels), 3)]
    text = Text(no_wrap=True)
    for row in range(0, small.height, 2):
        upper = colors[row * width : (row + 1) * width]
        lower = colors[(row + 1) * width : (row + 2) * width]
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", Style(color=above, bgcolor=below))
        text.append("\n")
    text.rstrip()
    return text
