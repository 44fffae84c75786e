"""ONNX in single precision -> ONNX in INT8 for ONNX Runtime, calibrated on what the model met.

Convolutions and products with a constant matrix compute in integers: weights in signed bytes, one
scale for each output channel; activations in unsigned bytes, one scale a tensor, from the least
and the greatest value that was seen (QDQ, static). What stays as it was, and why:

- products of two activations (attention): quantizing both sides at each run costs more than the
  product saves (tiny-image's denoiser at 8 rows: 1.21 times as fast as FP32, and 1.27 without);
- what a matrix product gives: put back into bytes, it made that denoiser slower than FP32 (0.7
  times as fast); what a convolution gives is, or none would run in integers;
- text encoders: a few per cent of a generation's time, and their error enters every step.

Calibration wants latents as a generation meets them, from noise to picture at every timestep: a
Recorder around the session that draws collects them. Latents from a normal distribution would not
do, since those of the last steps are not normal.

An INT8 model is a little other than its source: int8_gate.py says how much it may be. This is for
ONNX Runtime: TensorRT wants symmetric activations and no quantized bias, and TensorRT-RTX 1.7
builds quantized convolutions alone.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quant_pre_process,
    quantize_static,
)

Array = NDArray[Any]
Feed = Mapping[str, Array]

OPERATORS = ("Conv", "MatMul", "Gemm")
_OPTIONS = {
    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
    "CalibMaxIntermediateOutputs": 16,  # feeds looked at before their ranges are merged
}
MAX_EMBEDDED_BYTES = 1 << 30  # a protobuf message ends at 2 GiB; weights above go beside it


class Session(Protocol):
    """ONNX Runtime's, as far as it is used here."""

    def run(self, names: Sequence[str] | None, feed: Any) -> list[Any]: ...


class Recorder:
    """A session that remembers what it was fed, to calibrate on and to compare with."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.feeds: list[Feed] = []

    def run(self, names: Sequence[str] | None, feed: Any) -> list[Any]:
        self.feeds.append(dict(feed))
        return self._session.run(names, feed)


def quantize(source: Path, target: Path, feeds: Sequence[Feed]) -> None:
    """Write the INT8 model of a model.

    Args:
        source: in single precision; weights may be stored in halves and cast.
        feeds: of the model's inputs, from real generations; all are run once.

    Raises:
        ValueError: no feeds.
    """
    if not feeds:
        raise ValueError(f"{source.name}: nothing to calibrate on: record a generation first")
    large = sum(file.stat().st_size for file in source.parent.glob(f"{source.name}*"))
    beside = large > MAX_EMBEDDED_BYTES
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=target.parent) as name, _quiet():
        plain, made = Path(name) / "plain.onnx", Path(name) / target.name
        # Folds the casts of halves, without which no weight looks constant.
        quant_pre_process(
            str(source), str(plain), skip_symbolic_shape=True, save_as_external_data=beside
        )
        quantize_static(
            str(plain),
            str(made),
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=_products_of_activations(plain),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=beside,
            extra_options=dict(_OPTIONS),
        )
        _tidy(made)
        for file in sorted(Path(name).glob(f"{target.name}*"), reverse=True):
            file.replace(target.with_name(file.name))  # weights first


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def _products_of_activations(path: Path) -> list[str]:
    """Names of the matrix products of which no side is constant.

    ONNX Runtime's own option for it (MatMulConstBOnly) is not heeded with QDQ.
    """
    graph = onnx.load(path, load_external_data=False).graph
    constant = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and constant.isdisjoint(node.input)
    ]


def _tidy(path: Path) -> None:
    """Take out the operator sets that ONNX Runtime's optimizer lists whether used or not."""
    model = onnx.load(path, load_external_data=False)
    used = {node.domain for node in model.graph.node}
    needed = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(needed)
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """The library warns on the root logger of what was chosen on purpose."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
