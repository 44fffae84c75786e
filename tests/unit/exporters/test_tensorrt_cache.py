"""What was built once is not built again; whatever decides an engine makes it another."""

import os

import pytest

pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("tensorrt_rtx", reason="the tensorrt extra is not installed")

from exporters.tensorrt.build import build
from exporters.tensorrt.engine_cache import EngineCache
from exporters.tensorrt.library import load
from exporters.tensorrt.options import Options
from exporters.tensorrt.read_back import read_back, read_record
from tests.support.graphs import LARGER, PROFILE, write_graph


@pytest.fixture(scope="module")
def library():
    return load("tensorrt-rtx")


class Count:
    """Says whether a build was one."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def __call__(self, done: float, phase: str) -> None:
        self.phases.append(phase)

    @property
    def found(self) -> bool:
        return self.phases == ["found built"]


def test_the_same_engine_is_built_once(library, tmp_path):
    cache, graph = EngineCache(tmp_path / "cache"), write_graph(tmp_path / "m.onnx", beside=True)
    first, second = Count(), Count()

    built = build(library, graph, tmp_path / "a.plan", [PROFILE], cache=cache, progress=first)
    again = build(library, graph, tmp_path / "b.plan", [PROFILE], cache=cache, progress=second)

    assert (first.found, second.found) == (False, True)
    assert again == built
    assert (tmp_path / "b.plan").read_bytes() == (tmp_path / "a.plan").read_bytes()
    assert read_back(library, tmp_path / "b.plan")[0] == built


def test_whatever_decides_an_engine_makes_it_another(library, tmp_path):
    cache, plan = EngineCache(tmp_path / "cache"), tmp_path / "m.plan"
    graph = write_graph(tmp_path / "m.onnx", beside=True)
    build(library, graph, plan, [PROFILE], cache=cache)
    sm86 = load("tensorrt-rtx", ["SM86"])

    for changed in (
        lambda count: build(library, graph, plan, [LARGER], cache=cache, progress=count),
        lambda count: build(sm86, graph, plan, [PROFILE], cache=cache, progress=count),
        lambda count: build(
            library, graph, plan, [PROFILE], Options(1 << 28), cache=cache, progress=count
        ),
        # Other weights, in the file beside the graph alone.
        lambda count: build(
            library,
            write_graph(tmp_path / "m.onnx", beside=True, seed=1),
            plan,
            [PROFILE],
            cache=cache,
            progress=count,
        ),
    ):
        count = Count()
        changed(count)
        assert not count.found


def test_a_damaged_engine_in_the_cache_is_built_again(library, tmp_path):
    cache, graph = EngineCache(tmp_path / "cache"), write_graph(tmp_path / "m.onnx")
    build(library, graph, tmp_path / "m.plan", [PROFILE], cache=cache)
    (kept,) = (tmp_path / "cache").glob("*/model.plan")
    kept.unlink()
    kept.write_bytes(b"damaged")
    count = Count()

    engine = build(library, graph, tmp_path / "m.plan", [PROFILE], cache=cache, progress=count)

    assert not count.found
    assert read_record(tmp_path / "m.plan") == engine
    assert kept.stat().st_size == engine.plan_bytes


def test_what_was_not_wanted_for_longest_goes_when_there_is_too_much(library, tmp_path):
    cache, plan = EngineCache(tmp_path / "cache"), tmp_path / "m.plan"
    graph = write_graph(tmp_path / "m.onnx")
    built = [
        build(library, graph, plan, [PROFILE], Options(1 << power), cache=cache)
        for power in (26, 27, 28)
    ]
    one = next((tmp_path / "cache").glob("*/model.plan")).parent
    size = sum(file.stat().st_size for file in one.iterdir())
    for nth, power in enumerate((27, 28, 26)):  # wanted again in this order
        build(library, graph, plan, [PROFILE], Options(1 << power), cache=cache)
        newest = max((tmp_path / "cache").glob("*/model.plan"), key=_wanted).parent
        os.utime(newest, ns=(nth, nth))

    assert cache.prune(most_bytes=len(built) * size * 2) == 0
    assert cache.prune(most_bytes=size * 2) == pytest.approx(size, rel=0.05)

    found = {}
    for power in (26, 27, 28):
        count = Count()
        build(library, graph, plan, [PROFILE], Options(1 << power), cache=cache, progress=count)
        found[power] = count.found
    assert found == {26: True, 27: False, 28: True}
    assert cache.prune(most_bytes=1) > 0
    assert len(list((tmp_path / "cache").glob("*/model.plan"))) == 1


def _wanted(plan):
    return plan.parent.stat().st_mtime_ns
