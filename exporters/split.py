"""One denoiser cut into K models that chain to the same numbers: what a gang of K devices loads.

The graph's nodes are taken in their order, and cut where the weights are halved (or divided by K)
and the fewest tensors are alive: that is where blocks of the network end. A part is extracted by
onnx.utils; it is fed by name with graph inputs and with what the parts before it gave. Shapes are
not handed over but computed again from `latents`, and so is everything that only weights decide.

Refused: cutting the torch module. Each family has its own way of calling its blocks, and the graph
says the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.utils

from exporters.errors import ExportError, ParityError
from exporters.gate import Array
from exporters.measure import open_session
from exporters.spec import Precision

WINDOW = 0.3  # how far from an even share a cut may move, in shares
MAX_EMBEDDED_BYTES = 1 << 30  # a protobuf message ends at 2 GiB; weights above go beside it
# Of the chain, relative to the largest value. In single precision only the order of sums may
# differ; in half, what is handed over is rounded, where a whole graph may keep more on the way.
MAX_ERROR = {"fp32": 1e-5, "fp16": 1e-3}


@dataclass(frozen=True)
class Part:
    """One of K models: what it is fed, what it gives, and bytes of its weights."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_bytes: int


class _Flow:
    """Which node makes what, of the nodes whose outcome depends on the inputs' values."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.inputs = {value.name for value in graph.input}
        self.outputs = [value.name for value in graph.output]
        weights = {tensor.name: _bytes(tensor) for tensor in graph.initializer}
        known: dict[str, frozenset[str]] = {name: frozenset((name,)) for name in weights}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[frozenset[str]] = []  # initializers that a node's inputs come from
        shapes: set[str] = set()  # values that only the shapes of the inputs decide
        for node in graph.node:
            given = [name for name in node.input if name]
            if all(name in known or name in shapes for name in given) or (
                node.op_type == "Shape" and set(given) <= self.inputs
            ):
                if all(name in known for name in given):
                    used = frozenset().union(*(known[name] for name in given))
                    known |= dict.fromkeys(node.output, used)
                else:
                    shapes |= set(node.output)
                continue
            self.nodes.append(node)
            self.weights.append(
                frozenset().union(*(known[name] for name in given if name in known))
            )
        self.sizes = weights
        self.made = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.last = {
            name: i for i, node in enumerate(self.nodes) for name in node.input if name in self.made
        } | dict.fromkeys(self.outputs, len(self.nodes))

    def alive(self, cut: int) -> int:
        """How many tensors are handed over if the nodes before `cut` are one part."""
        return sum(made < cut <= self.last.get(name, -1) for name, made in self.made.items())

    def bytes_of(self, start: int, end: int) -> int:
        used = frozenset().union(*self.weights[start:end])
        return sum(self.sizes[name] for name in used)


def _bytes(tensor: onnx.TensorProto) -> int:
    item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(np.prod(tensor.dims, dtype=np.int64)) * item


def split(source: Path, targets: Sequence[Path]) -> list[Part]:
    """Cut `source` and write a model to each of `targets`.

    Raises:
        ExportError: there are fewer places to cut than asked for.
    """
    model = onnx.load(source)
    flow = _Flow(model.graph)
    cuts = [0, *_cuts(flow, len(targets)), len(flow.nodes)]
    extractor = onnx.utils.Extractor(model)
    parts = []
    for path, start, end in zip(targets, cuts[:-1], cuts[1:], strict=True):
        inputs, outputs = _interface(flow, start, end)
        piece = extractor.extract_model(inputs, outputs)
        unused = _unused_inputs(piece)
        for value in [value for value in piece.graph.input if value.name in unused]:
            piece.graph.input.remove(value)
        weights = sum(_bytes(tensor) for tensor in piece.graph.initializer)
        beside = weights > MAX_EMBEDDED_BYTES
        onnx.save(piece, path, save_as_external_data=beside, location=f"{path.name}.data")
        kept = tuple(name for name in inputs if name not in unused)
        parts.append(Part(kept, tuple(outputs), weights))
    return parts


def _cuts(flow: _Flow, count: int) -> list[int]:
    total = flow.bytes_of(0, len(flow.nodes))
    reached, seen = [0], frozenset[str]()
    for used in flow.weights:
        reached.append(reached[-1] + sum(flow.sizes[name] for name in used - seen))
        seen |= used
    cuts: list[int] = []
    for k in range(1, count):
        share = total / count
        near = [
            i
            for i in range(1, len(flow.nodes))
            if abs(reached[i] - k * share) <= WINDOW * share and (not cuts or i > cuts[-1])
        ]
        if not near:
            raise ExportError(f"--parts {count}: the denoiser has no {count} parts of like size")
        cuts.append(min(near, key=lambda i: (flow.alive(i), abs(reached[i] - k * share))))
    return cuts


def _interface(flow: _Flow, start: int, end: int) -> tuple[list[str], list[str]]:
    inside = {name for node in flow.nodes[start:end] for name in node.output}
    needed = {name for node in flow.nodes[start:end] for name in node.input}
    before = [name for name, made in flow.made.items() if made < start and name in needed]
    outputs = [
        name
        for name, made in flow.made.items()
        if name in inside and flow.last.get(name, -1) >= end
    ]
    return [*sorted(flow.inputs), *before], outputs


def _unused_inputs(model: onnx.ModelProto) -> set[str]:
    used = {name for node in model.graph.node for name in node.input}
    return {value.name for value in model.graph.input} - used


def compare_parts(
    source: Path, parts: Sequence[Path], feed: Mapping[str, Array], precision: Precision = "fp32"
) -> float:
    """Chain the parts on one feed; returns the largest error, relative to the largest value.

    Raises:
        ParityError: it is more than rounding.
    """
    whole = open_session(source)
    names = [value.name for value in whole.get_outputs()]
    expected = dict(zip(names, whole.run(names, dict(feed)), strict=True))
    del whole
    known: dict[str, Any] = dict(feed)
    for path in parts:
        session = open_session(path)
        given = {value.name: known[value.name] for value in session.get_inputs()}
        made = [value.name for value in session.get_outputs()]
        known |= dict(zip(made, session.run(made, given), strict=True))
    worst = max(
        float(np.abs(known[name] - value).max() / max(1.0, np.abs(value).max()))
        for name, value in expected.items()
    )
    if not worst <= MAX_ERROR[precision]:
        raise ParityError(
            f"the parts' chain is {worst:.2g} off the whole (at most {MAX_ERROR[precision]})"
        )
    return worst
