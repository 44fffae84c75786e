"""The fleet as it is seen: `atelier top`, `trace` and `timeline` against a real stack."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from atelier.cli.timeline_chart import PALETTE
from atelier.v1 import generation_pb2
from tests.e2e.conftest import MODEL, Stack, wait_until
from tests.e2e.test_kills import killed
from tests.e2e.test_operators import device, ordered

pytestmark = pytest.mark.real

PROMPT = "a white cross on a purple background"


def test_a_generation_is_seen_from_its_wait_to_its_end(stack: Stack, tmp_path: Path) -> None:
    made = stack.create(PROMPT, steps=8)
    assert stack.wait(made).state == generation_pb2.GENERATION_STATE_SUCCEEDED
    shown = ordered(stack, "top", "--once")
    assert re.search(r"cpu-0 +ready +[█·]+ ", shown)
    assert f"run     {made}" in shown

    told = ordered(stack, "trace", made)
    names = ["queued", "bound to cpu-0", "attempt 1 on cpu-0", "text", "denoise", "decode",
             "encode", "upload", "publish"]  # fmt: skip
    places = [told.find(name) for name in names]
    assert -1 not in places and places == sorted(places), told
    lasted = re.search(rf"{made} +succeeded after ([0-9.]+) s", told)
    parts = re.findall(r"^(?:queued|attempt 1 on cpu-0) +([0-9.]+) s", told, re.MULTILINE)
    assert lasted and parts, told
    assert sum(map(float, parts)) == pytest.approx(float(lasted[1]), abs=0.002)

    page = tmp_path / "out.html"
    ordered(stack, "timeline", "-o", str(page))
    assert f"<title>{made} {MODEL}, attempt 1" in page.read_text()


class Terminal:
    """`atelier` in a tmux of its own."""

    def __init__(self, name: str, command: str) -> None:
        self._tmux = ["tmux", "-L", name, "-f", "/dev/null"]
        size = ("-x", "110", "-y", "30")
        self._run("new-session", "-d", "-s", "top", *size, f"{command}; echo ended $?; sleep 600")

    def _run(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, timeout=30)
        return done.stdout

    def shows(self) -> str:
        return self._run("capture-pane", "-p", "-t", "top")

    def press(self, *keys: str) -> None:
        for key in keys:
            self._run("send-keys", "-t", "top", key)
            time.sleep(0.3)  # what is typed at once may be one key to a terminal (escape)

    def wait_for(self, seen: Callable[[str], bool]) -> str:
        wait_until(lambda: seen(self.shows()), 60, self.shows)
        return self.shows()

    def end(self) -> None:
        self._run("kill-server")


@pytest.fixture
def top(stack: Stack, tmp_path: Path) -> Iterator[Terminal]:
    if not shutil.which("tmux"):
        pytest.skip("there is no tmux: install it to see `atelier top` in a terminal")
    words = f"{sys.executable} -m atelier.cli top --state-dir '{stack.state_dir}'"
    terminal = Terminal(f"atelier-{tmp_path.name}", words)
    try:
        yield terminal
    finally:
        terminal.end()


@pytest.mark.slow
def test_an_operator_works_by_keys(stack: Stack, top: Terminal) -> None:
    top.wait_for(lambda screen: "1 ready" in screen)
    long = stack.create(PROMPT, steps=100, count=4)
    screen = top.wait_for(lambda screen: f"└ {long}" in screen and "of 100" in screen)
    assert all(len(line) <= 110 for line in screen.splitlines())

    top.press("Down", "Enter")
    top.wait_for(lambda screen: f"{long}  running for" in screen)
    top.press("Escape", "c")
    top.wait_for(lambda screen: f"cancel {long}? y/n" in screen)
    top.press("y")
    assert stack.wait(long).state == generation_pb2.GENERATION_STATE_CANCELLED

    top.press("Home", "d")
    top.wait_for(lambda screen: "drain cpu-0? y/n" in screen)
    top.press("n", "d", "y")
    top.wait_for(lambda screen: "1 drained" in screen)
    assert device(stack).drain_reason
    killed(stack, "scheduler")
    top.press("u", "y")
    top.wait_for(lambda screen: "1 ready" in screen or "asking again" in screen)
    wait_until(lambda: not device(stack).drain_reason or bool(top.press("u", "y")), 60)
    top.wait_for(lambda screen: "1 ready" in screen)
    killed(stack, "gateway")
    top.wait_for(lambda screen: "asking again" in screen)
    top.wait_for(lambda screen: "1 ready" in screen and "asking again" not in screen)
    top.press("q")
    top.wait_for(lambda screen: "ended 0" in screen)


@pytest.mark.slow
def test_a_browser_shows_the_page(stack: Stack, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no chromium: install it to see the page as a browser draws it")
    assert stack.wait(stack.create(PROMPT, steps=20)).state
    page, picture = tmp_path / "out.html", tmp_path / "out.png"
    ordered(stack, "timeline", "-o", str(page))
    subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,500",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", page.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with Image.open(picture) as image:
        colours = {rgb for _, rgb in image.convert("RGB").getcolors(2**24) or ()}
    assert tuple(bytes.fromhex(PALETTE[0][1:])) in colours, "the model's blocks are seen"
    assert (0xE1, 0xE6, 0xEB) in colours, "and the grid, which the script has drawn"
