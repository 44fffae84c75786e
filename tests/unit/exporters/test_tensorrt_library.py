"""Which library is here, what it builds for, and whether it has the names that are used."""

import importlib.util
import inspect

import pytest

rtx = pytest.importorskip("tensorrt_rtx", reason="the tensorrt extra is not installed")

from exporters.tensorrt import api  # noqa: E402
from exporters.tensorrt.library import DEFAULT_CAPABILITIES, load  # noqa: E402
from exporters.tensorrt.record import EngineError  # noqa: E402

THEIRS = {
    api.NetworkTensor: rtx.ITensor,
    api.Layer: rtx.ILayer,
    api.Network: rtx.INetworkDefinition,
    api.ParserError: rtx.ParserError,
    api.OnnxParser: rtx.OnnxParser,
    api.OptimizationProfile: rtx.IOptimizationProfile,
    api.TimingCache: rtx.ITimingCache,
    api.BuilderConfig: rtx.IBuilderConfig,
    api.Builder: rtx.Builder,
    api.ExecutionContext: rtx.IExecutionContext,
    api.CudaEngine: rtx.ICudaEngine,
    api.Runtime: rtx.Runtime,
    api.Module: rtx,
}


def test_every_name_of_the_protocols_is_the_librarys():
    for ours, theirs in THEIRS.items():
        methods = {name for name, _ in inspect.getmembers(ours, inspect.isfunction)}
        names = {name for name in methods | ours.__annotations__.keys() if name != "__init__"} - {
            "__subclasshook__",
            "_no_init_or_replace_init",
        }
        assert names, ours
        assert {name for name in names if not hasattr(theirs, name)} == set(), ours


def test_it_builds_for_the_capabilities_named_in_their_order_once():
    assert load("tensorrt-rtx").devices == DEFAULT_CAPABILITIES
    assert load("tensorrt-rtx", ["SM89", "SM75", "SM89"]).devices == ("SM89", "SM75")


def test_a_capability_that_it_does_not_know_is_named_with_those_that_it_does():
    with pytest.raises(EngineError, match=r"capability SM90, CURRENT: .* knows SM75, SM80"):
        load("tensorrt-rtx", ["SM90", "SM86", "CURRENT"])


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here"
)
def test_a_library_that_is_missing_is_named_with_how_to_get_it():
    with pytest.raises(EngineError, match=r"tensorrt is not installed.*NVIDIA's index"):
        load("tensorrt")
