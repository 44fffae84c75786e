"""Engines of Stable Diffusion 1.5's structure at full width, random weights: `make test-full`."""

import pytest

from benchmarks.bench_engines import CAPABILITIES, PARTS, component, measured
from exporters.tensorrt.profiles import Bounds
from exporters.tensorrt.read_back import read_record
from exporters.tensorrt.record import Binding

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_becomes_an_engine_in_fp16(part, tmp_path):
    exported = measured("export", part, tmp_path)
    built = measured("build", part, tmp_path)
    engine = read_record(tmp_path / f"{part}.plan")
    contract = component(part)

    assert engine.inputs == tuple(
        Binding(tensor.name, tensor.dtype, (-1, *tensor.dims)) for tensor in contract.inputs
    )
    assert engine.outputs == tuple(
        Binding(tensor.name, tensor.dtype, (-1, *tensor.dims)) for tensor in contract.outputs
    )
    assert engine.matrix_types.keys() == {"HALF"}
    assert engine.devices == CAPABILITIES
    assert built["read_back"] in ("header", "whole")
    # The engine holds the weights once, in halves.
    assert 0.95 < engine.plan_bytes / exported["onnx_bytes"] < 1.1
    assert built["peak_bytes"] < 8e9
    if part == "denoiser":
        assert exported["parameters"] > 859e6
        (profile,) = engine.profiles
        assert profile["latents"] == Bounds((1, 4, 64, 64), (8, 4, 64, 64), (8, 4, 96, 96))
