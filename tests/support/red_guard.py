"""A safety checker as an operator brings one: an ONNX graph, and its config for Triton."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GUARD = "red_guard"
CONFIG = f"""
name: "{GUARD}"
backend: "onnxruntime"
max_batch_size: 16
input [ {{ name: "images", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ] }} ]
output [ {{ name: "unsafe", data_type: TYPE_FP32, dims: [ 1 ] }} ]
dynamic_batching {{ }}
instance_group [ {{ count: 1, kind: KIND_AUTO }} ]
"""


def red_guard() -> onnx.ModelProto:
    """How red pictures are: the mean of what red has above green and blue, 0 to 1.

    images uint8 (N, H, W, 3) -> unsafe float32 (N, 1).
    """

    def ints(name: str, *values: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    def node(kind: str, inputs: str, output: str, **more: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), output.split(), **more)

    nodes = [
        node("Cast", "images", "x", to=TensorProto.FLOAT),
        node("Split", "x", "red green blue", axis=3, num_outputs=3),
        node("Max", "green blue", "other"),
        node("Sub", "red other", "above"),
        node("Relu", "above", "reddish"),
        node("ReduceMean", "reddish sides", "mean", keepdims=0),
        node("Div", "mean white", "unsafe"),
    ]
    graph = helper.make_graph(
        nodes,
        GUARD,
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("unsafe", TensorProto.FLOAT, ["n", 1])],
        [ints("sides", 1, 2), numpy_helper.from_array(np.array(255, np.float32), "white")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def put_red_guard(repository: Path) -> str:
    """Lay it into a model repository; its name there."""
    (repository / GUARD / "1").mkdir(parents=True)
    onnx.save(red_guard(), str(repository / GUARD / "1" / "model.onnx"))
    (repository / GUARD / "config.pbtxt").write_text(CONFIG)
    return GUARD
