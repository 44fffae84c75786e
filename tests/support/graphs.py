"""A small ONNX graph in half precision, and bounds for its input."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.tensorrt.profiles import Bounds

PROFILE = {"x": Bounds((1, 4, 8, 8), (2, 4, 8, 8), (4, 4, 8, 8))}
LARGER = {"x": Bounds((1, 4, 16, 16), (2, 4, 16, 16), (4, 4, 16, 16))}


def write_graph(path: Path, middle: str = "Relu", *, seed: int = 0, beside: bool = False) -> Path:
    """x -> half -> convolution -> middle -> single -> y."""
    weights = np.random.default_rng(seed).standard_normal((4, 4, 3, 3)).astype(np.float16)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["h"], "to_half", to=TensorProto.FLOAT16),
            helper.make_node("Conv", ["h", "w"], ["c"], "conv_in", pads=[1, 1, 1, 1]),
            helper.make_node(middle, ["c"], ["m"], "the_middle"),
            helper.make_node("Cast", ["m"], ["y"], "to_single", to=TensorProto.FLOAT),
        ],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4, "h", "w"])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(
        model,
        path,
        save_as_external_data=beside,
        location=f"{path.name}.data",
        size_threshold=0,
    )
    return path
