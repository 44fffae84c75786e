"""The whole stack with a second object store, while the first is frozen: what is asked for is made,
published once and can be fetched; when it is back, it is used again and old keys work."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.v1 import generation_pb2 as pb
from tests.e2e.conftest import Stack, create, wait_until
from tests.e2e.test_command_line import atelier
from tests.e2e.test_videos import film
from tests.support.ports import free_address
from tests.support.s3 import S3Server

METRICS = free_address()  # of the agent
pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose rooms know of a second store."""
    folder = tmp_path_factory.mktemp("two stores")
    with (
        S3Server(folder / "second", "key", "secret") as second,
        pytest.MonkeyPatch.context() as env,
    ):
        env.setenv("ATELIER_S3_SECONDARY_ENDPOINT", second.address)
        env.setenv("ATELIER_S3_SECONDARY_ACCESS_KEY", "key")
        env.setenv("ATELIER_S3_SECONDARY_SECRET_KEY", "secret")
        env.setenv("ATELIER_AGENT_METRICS_LISTEN", METRICS)
        running = Stack(folder / "state")
        running.start()
        yield running
        assert running.stop() == 0, running.log.read_text()


def made(house: Stack, request: pb.CreateGenerationRequest) -> tuple[pb.Generation, float]:
    """The generation at its end, and the seconds that it took."""
    began = time.monotonic()
    *_, last = house.generations.Generate(pb.GenerateRequest(create=request), timeout=120)
    seconds = time.monotonic() - began
    assert last.generation.state == pb.GENERATION_STATE_SUCCEEDED, last
    assert last.generation.attempt == 1
    return last.generation, seconds


def fetched(house: Stack, generation_id: str) -> bytes:
    request = pb.GetGenerationRequest(id=generation_id)
    [result] = house.generations.GetGeneration(request, timeout=60).generation.results
    with urllib.request.urlopen(result.url, timeout=10) as answer:
        data = bytes(answer.read())
    assert len(data) == result.size_bytes
    return data


def test_generations_go_on_while_the_first_store_is_frozen(house: Stack, tmp_path: Path) -> None:
    picture = create("a red ring on a white background", seed=1)
    clip = film("a red circle on a blue background moving left", seed=1)
    made(house, picture)
    made(house, clip)
    took = {"well": [made(house, picture)[1] for _ in range(5)]}
    took["well, film"] = [made(house, clip)[1] for _ in range(3)]
    pid = house.part("s3")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        first, seconds = made(house, picture)
        took["frozen, first"] = [seconds]
        [result] = first.results
        assert "/secondary/" in result.object_key
        assert fetched(house, first.id)
        with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=5) as told:
            assert "\natelier_object_store_primary_away 1.0" in told.read().decode()
        later = [made(house, picture) for _ in range(5)]
        took["frozen, later"] = [seconds for _, seconds in later]
        films = [made(house, clip) for _ in range(3)]
        took["frozen, later film"] = [seconds for _, seconds in films]
        ids = [first.id, *(one.id for one, _ in later + films)]
        files = {one: fetched(house, one) for one in ids}
    finally:
        os.kill(pid, signal.SIGCONT)

    def back() -> bool:
        [result] = made(house, picture)[0].results
        return "/secondary/" not in result.object_key

    wait_until(back, 60)
    assert {one: fetched(house, one) for one in ids} == files
    print({what: [round(s, 2) for s in seconds] for what, seconds in took.items()})
    swept = atelier("sweep", "--dry-run", "--state-dir", str(house.state_dir), cwd=tmp_path)
    assert swept.returncode == 0, swept
    assert "0 orphans" in swept.stdout


def test_a_film_is_made_where_the_first_store_freezes_under_it(house: Stack) -> None:
    pid = house.part("s3")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        filmed, seconds = made(house, film("a red circle on a blue background", seed=2))
        print({"frozen, first film": round(seconds, 2)})
        assert fetched(house, filmed.id)[4:8] == b"ftyp"
    finally:
        os.kill(pid, signal.SIGCONT)
