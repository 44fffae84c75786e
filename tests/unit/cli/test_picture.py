import base64
from io import BytesIO, StringIO

import pytest
from PIL import Image
from rich.console import Console

from atelier.cli import picture


@pytest.mark.parametrize(
    ("environment", "means"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1", "TERM": "xterm-256color"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"LC_TERMINAL": "iTerm2", "TERM": "xterm-256color"}, "iterm2"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app"}, "blocks"),
        ({"TMUX": "/tmp/x", "KITTY_WINDOW_ID": "1"}, "blocks"),
        ({"TERM": "dumb"}, "none"),
    ],
)
def test_the_terminal_decides(environment: dict[str, str], means: str) -> None:
    assert picture.choose(environment, terminal=True, colors=True) == means
    assert picture.choose(environment, terminal=False, colors=True) == "none"


def test_no_colours_no_blocks() -> None:
    assert picture.choose({"TERM": "xterm"}, terminal=True, colors=False) == "none"


def test_kitty_gets_chunks_that_say_whether_more_follow() -> None:
    png = bytes(range(256)) * 30
    codes = list(picture.kitty(png))
    assert [code.partition(";")[0] for code in codes] == [
        "\x1b_Ga=T,f=100,q=2,c=32,m=1",
        "\x1b_Gm=1",
        "\x1b_Gm=0",
    ]
    data = "".join(code.partition(";")[2].removesuffix("\x1b\\") for code in codes)
    assert base64.standard_b64decode(data) == png


def test_iterm2_gets_the_file_and_its_size() -> None:
    (code,) = picture.iterm2(b"png")
    assert code == "\x1b]1337;File=inline=1;size=3;width=32:cG5n\x07"


def test_blocks_hold_two_pixels_a_cell() -> None:
    image = Image.new("RGB", (2, 2))
    image.putdata([(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)])
    text = picture.blocks(image, 64)
    assert text.plain == "▀▀"
    assert [str(span.style) for span in text.spans] == ["#ff0000 on #0000ff", "#00ff00 on #090909"]


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (30, 7), (1, 1), (1000, 10)])
def test_any_size_fits_the_columns(size: tuple[int, int]) -> None:
    lines = picture.blocks(Image.new("RGB", size), 40).plain.split("\n")
    assert {len(line) for line in lines} == {min(40, size[0])}


@pytest.mark.parametrize("means", ["kitty", "iterm2", "blocks", "none"])
def test_a_file_is_shown(means: picture.Means) -> None:
    file = BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    written = StringIO()
    picture.show(Console(file=written, force_terminal=True), file.getvalue(), means)
    assert bool(written.getvalue()) == (means != "none")


def test_256_colours_will_do() -> None:
    written = StringIO()
    console = Console(file=written, force_terminal=True, color_system="256")
    file = BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    picture.show(console, file.getvalue(), "blocks")
    assert "38;5;" in written.getvalue() and "38;2;" not in written.getvalue()
