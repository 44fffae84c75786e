"""Engines built by TensorRT-RTX, without a GPU: what they are, what is refused, what is kept."""

import hashlib
import json
import resource
import signal
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("tensorrt_rtx", reason="the tensorrt extra is not installed")

import numpy as np  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from exporters.tensorrt.build import build  # noqa: E402
from exporters.tensorrt.engine_cache import EngineCache  # noqa: E402
from exporters.tensorrt.library import DEFAULT_CAPABILITIES, Library, load  # noqa: E402
from exporters.tensorrt.options import Options  # noqa: E402
from exporters.tensorrt.profiles import Bounds  # noqa: E402
from exporters.tensorrt.read_back import read_back, read_record  # noqa: E402
from exporters.tensorrt.record import (  # noqa: E402
    Binding,
    EngineError,
    from_json,
    record_path,
    to_json,
)
from tests.support.graphs import LARGER, PROFILE, write_graph  # noqa: E402


@pytest.fixture(scope="module")
def library():
    return load("tensorrt-rtx")


@pytest.fixture(scope="module")
def built(library, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    seen: list[tuple[float, str]] = []
    engine = build(
        library,
        write_graph(folder / "model.onnx"),
        folder / "model.plan",
        [PROFILE, LARGER],
        progress=lambda done, phase: seen.append((done, phase)),
    )
    return engine, folder / "model.plan", seen


def test_the_engine_is_what_the_graph_and_the_profiles_say(built):
    engine, plan, _ = built

    assert engine.inputs == (Binding("x", "FP32", (-1, 4, -1, -1)),)
    assert engine.outputs == (Binding("y", "FP32", (-1, 4, -1, -1)),)
    assert engine.matrix_types == {"HALF": 1}
    assert engine.devices == DEFAULT_CAPABILITIES
    assert engine.plan_bytes == plan.stat().st_size


def test_tensorrt_rtx_gets_one_profile_that_spans_all(built):
    engine, _, _ = built

    assert engine.profiles == ({"x": Bounds((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 16, 16))},)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
def test_what_tensorrt_alone_is_told_is_in_the_common_api(library, tmp_path):
    """The branch for TensorRT, driven through the objects of TensorRT-RTX, which take it all."""
    as_tensorrt = Library("tensorrt", library.module, ("GPU (SM86)",))
    cache = EngineCache(tmp_path / "cache")

    engine = build(
        as_tensorrt,
        write_graph(tmp_path / "model.onnx"),
        tmp_path / "model.plan",
        [PROFILE, LARGER],
        Options(optimization_level=2, any_ampere_or_later=True, workspace_bytes=1 << 28),
        cache=cache,
    )

    assert engine.profiles == (PROFILE, LARGER)
    assert engine.devices == ("GPU (SM86)",)
    assert cache.timing_path(as_tensorrt).stat().st_size > 0


def test_its_record_is_read_as_it_was_written(built):
    engine, plan, _ = built

    assert read_record(plan) == engine
    assert from_json(to_json(engine)) == engine


def test_the_library_takes_the_plan_as_far_as_it_can_without_a_gpu(built, library):
    engine, plan, _ = built

    read, depth = read_back(library, plan)

    assert read == engine
    assert depth in ("header", "whole")  # whole where this runs on a GPU


def test_progress_rises_to_one(built):
    _, _, seen = built
    shares = [done for done, _ in seen]

    assert shares == sorted(shares)
    assert (shares[0] < 0.1, shares[-1]) == (True, 1.0)
    assert len({phase for _, phase in seen}) > 3


def damage(plan: Path, target: Path, content: bytes) -> Path:
    """A damaged plan with a record that believes in it."""
    target.write_bytes(content)
    engine = replace(read_record(plan), plan_sha256=hashlib.sha256(content).hexdigest())
    record_path(target).write_text(to_json(engine))
    return target


def test_the_library_refuses_a_damaged_plan_itself(built, library, tmp_path):
    _, plan, _ = built
    whole = plan.read_bytes()

    for name, content in (("cut", whole[: len(whole) // 2]), ("other", b"x" * 5000)):
        with pytest.raises(EngineError, match=r"loading .* failed: .*Serialization"):
            read_back(library, damage(plan, tmp_path / name, content))


def test_a_plan_of_another_version_or_without_its_record_is_refused(built, library, tmp_path):
    _, plan, _ = built
    other = damage(plan, tmp_path / "model.plan", plan.read_bytes())
    older = replace(read_record(other), version="1.0.0")
    record_path(other).write_text(to_json(older))

    with pytest.raises(EngineError, match=r"built by tensorrt-rtx 1\.0\.0; here is"):
        read_back(library, other)
    other.write_bytes(b"another")
    with pytest.raises(EngineError, match=r"not the file that model\.plan\.json describes"):
        read_record(other)
    record_path(other).unlink()
    with pytest.raises(EngineError, match="missing: build the engine again"):
        read_record(other)


def test_an_operator_that_is_not_known_is_named_with_its_node(library, tmp_path):
    graph = write_graph(tmp_path / "model.onnx", "Sparkle")

    with pytest.raises(EngineError, match=r"the_middle.*Sparkle") as caught:
        build(library, graph, tmp_path / "model.plan", [PROFILE])

    assert caught.value.nodes == ("the_middle",)
    assert not (tmp_path / "model.plan").exists()


def test_bytes_that_are_not_cast_at_once_are_named(library, tmp_path):
    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["t"], "bytes_moved", perm=[0, 2, 1]),
            helper.make_node("Cast", ["t"], ["y"], "to_single", to=TensorProto.FLOAT),
        ],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", 4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 8, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    profile = {"x": Bounds((1, 4, 8), (1, 4, 8), (4, 4, 8))}

    with pytest.raises(EngineError, match=r"node bytes_moved \(Transpose\): .*UInt8") as caught:
        build(library, tmp_path / "model.onnx", tmp_path / "model.plan", [profile])

    assert "cuda" not in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_what_fails_in_the_build_is_named_too(tmp_path):
    weights = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "single_product")],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 8])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    turing = load("tensorrt-rtx", ["SM75"])  # which has no FP32 matrix products
    profile = {"x": Bounds((1, 8), (1, 8), (4, 8))}

    with pytest.raises(EngineError, match=r"at ONNX node single_product: .*Turing") as caught:
        build(turing, tmp_path / "model.onnx", tmp_path / "model.plan", [profile])

    assert caught.value.nodes == ("single_product",)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({}, "has the inputs x; the profile bounds"),
        ({"z": PROFILE["x"]}, "the profile bounds z"),
        ({"x": Bounds((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))}, "Dimension mismatch"),
    ],
)
def test_a_profile_that_does_not_fit_the_graph_is_refused(library, tmp_path, profile, message):
    graph = write_graph(tmp_path / "model.onnx")

    with pytest.raises(EngineError, match=message):
        build(library, graph, tmp_path / "model.plan", [profile])


def test_files_that_are_no_graph_are_named(library, tmp_path):
    (tmp_path / "text.onnx").write_text("not a graph")
    beside = write_graph(tmp_path / "model.onnx", beside=True)
    (tmp_path / "model.onnx.data").unlink()

    for path, message in (
        (tmp_path / "none.onnx", "none.onnx: no such file"),
        (tmp_path / "text.onnx", "text.onnx: not an ONNX file"),
        (beside, r"should lie in model\.onnx\.data, which is missing"),
    ):
        with pytest.raises(EngineError, match=message):
            build(library, path, tmp_path / "model.plan", [PROFILE])


def test_ctrl_c_in_a_build_is_heard_and_leaves_what_was_there(library, tmp_path):
    """Sent while the library calls back, where what it raises would be swallowed."""

    def interrupt(done: float, phase: str) -> None:
        if not sent:
            sent.append(phase)
            signal.raise_signal(signal.SIGINT)

    sent: list[str] = []
    heard = signal.getsignal(signal.SIGINT)
    plan = tmp_path / "model.plan"
    graph = write_graph(tmp_path / "m.onnx")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            build(library, graph, plan, [PROFILE], progress=interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, heard)

    assert not plan.exists()


def test_what_progress_raises_comes_out(library, tmp_path):
    def fail(done: float, phase: str) -> None:
        raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match="no terminal"):
        build(
            library,
            write_graph(tmp_path / "m.onnx"),
            tmp_path / "model.plan",
            [PROFILE],
            progress=fail,
        )


@contextmanager
def files_of_at_most(size: int):
    """Writes beyond `size` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_there(library, tmp_path):
    graph, plan = write_graph(tmp_path / "m.onnx"), tmp_path / "model.plan"
    plan.write_bytes(b"older")

    with pytest.raises(OSError), files_of_at_most(4096):
        build(library, graph, plan, [PROFILE])

    assert plan.read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "model.plan"]


def test_a_record_that_is_none_is_refused(tmp_path):
    for text in ("", "[]", json.dumps({"library": "tensorrt"})):
        with pytest.raises(EngineError, match="not an engine's record"):
            from_json(text)


@pytest.mark.parametrize("wrong", [{"optimization_level": 6}, {"workspace_bytes": 0}])
def test_options_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Options(**wrong)
