"""The config.pbtxt of an engine, as Triton's own message reads it."""

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from exporters.pbtxt import render
from exporters.spec import ExportSpec

DENOISER = ExportSpec("tiny-image", tokens=32, width=64, channels=4, downscale=4).denoiser


@pytest.mark.parametrize("profiles", [1, 3])
def test_a_tensorrt_plan_is_read_by_tritons_own_backend_with_every_profile(profiles: int):
    config = text_format.Parse(render(DENOISER, "tensorrt", profiles), pb.ModelConfig())

    assert (config.platform, config.backend) == ("tensorrt_plan", "")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, pb.ModelInstanceGroup.KIND_GPU)
    assert list(group.profile) == [str(index) for index in range(profiles)]


def test_a_tensorrt_rtx_plan_is_not():
    config = text_format.Parse(render(DENOISER, "tensorrt-rtx"), pb.ModelConfig())

    assert (config.platform, config.backend) == ("", "tensorrt_rtx")
    assert [group.kind for group in config.instance_group] == [pb.ModelInstanceGroup.KIND_GPU]


def test_names_types_and_dims_are_the_same_whatever_reads_the_model():
    onnx, plan = (
        text_format.Parse(render(DENOISER, engine), pb.ModelConfig())
        for engine in ("onnxruntime", "tensorrt")
    )

    assert list(plan.input) == list(onnx.input)
    assert list(plan.output) == list(onnx.output)
    assert plan.max_batch_size == onnx.max_batch_size
