"""torch module -> ONNX file, with weights stored in half precision and computed in single.

A weight that a half holds exactly is stored as FP16 followed by a Cast to FP32. ONNX Runtime folds
the Cast when it loads the file (constant folding, on at every optimisation level), so arithmetic
and speed are those of plain FP32 and the file has half the size. Whatever a half does not hold
exactly (tables of frequencies, masks with the least float) stays as it is: the rewriting itself
loses nothing, only rounding the weights beforehand does (Checkpoint.halved), and parity measures
that against the checkpoint as it was.

Refused: exporting the module in half. Then arithmetic is half too, which CPUs emulate slowly, and
the update of the sampler, which adds small steps to large latents, loses digits for nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch.export import Dim

from exporters.spec import FREE, Component, Tensor

OPSET = 18  # the newest that TensorRT and ONNX Runtime of these years both read whole
MIN_HALVED_ELEMENTS = 256  # below, a Cast costs more than it saves
MAX_EMBEDDED_BYTES = 1 << 30  # a protobuf message ends at 2 GiB; weights above go beside it

# Rows and sides of the example inputs: all different from one another and from every fixed
# length, so that the tracer cannot take one for another.
_EXAMPLE_ROWS, _EXAMPLE_HEIGHT, _EXAMPLE_WIDTH = 3, 4, 6  # sides in multiples of latent_multiple


def export_onnx(
    module: torch.nn.Module, component: Component, path: Path, *, latent_multiple: int
) -> int:
    """Write `module` to `path`.

    Args:
        module: takes component.inputs in their order and returns component.outputs in theirs.
        latent_multiple: the sides of spatial inputs are multiples of it.

    Returns:
        bytes of the weights as they are once loaded, in FP32.
    """
    program = torch.onnx.export(
        module,
        tuple(_example(tensor, latent_multiple) for tensor in component.inputs),
        dynamo=True,
        opset_version=OPSET,
        input_names=[tensor.name for tensor in component.inputs],
        output_names=[tensor.name for tensor in component.outputs],
        dynamic_shapes=_dynamic_shapes(component, latent_multiple),
        verbose=False,
    )
    model = program.model
    loaded_bytes = _weight_bytes(model)
    store_in_half(model)
    strip_metadata(model)
    beside = f"{path.name}.data" if _weight_bytes(model) > MAX_EMBEDDED_BYTES else None
    ir.save(model, path, external_data=beside)
    return loaded_bytes


def _weight_bytes(model: ir.Model) -> int:
    weights = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in weights if tensor is not None)


def store_in_half(model: ir.Model) -> None:
    """Store as FP16 + Cast every FP32 weight that a half holds exactly."""
    graph = model.graph
    casts = []
    for weight in list(graph.initializers.values()):
        tensor = weight.const_value
        if tensor is None or weight.name is None:
            continue
        if tensor.dtype != ir.DataType.FLOAT or tensor.size < MIN_HALVED_ELEMENTS:
            continue
        single = tensor.numpy()
        with np.errstate(over="ignore"):  # then it is not exact, and stays
            half = single.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), single):
            continue
        stored = ir.Value(
            name=f"{weight.name}.half",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=weight.shape,
            const_value=ir.Tensor(half, name=f"{weight.name}.half"),
        )
        del graph.initializers[weight.name]
        graph.register_initializer(stored)
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{weight.name}.cast")
        cast.outputs[0].name = f"{weight.name}.single"
        cast.outputs[0].dtype = ir.DataType.FLOAT
        cast.outputs[0].shape = weight.shape
        weight.replace_all_uses_with(cast.outputs[0])
        casts.append(cast)
    if casts:
        graph.insert_before(graph[0], casts)


def strip_metadata(model: ir.Model) -> None:
    """Remove what the tracer noted on each node: stack traces of this machine, 1.6 MB a file."""
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            value.doc_string = None
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def _example(tensor: Tensor, latent_multiple: int) -> torch.Tensor:
    sides = iter((_EXAMPLE_HEIGHT, _EXAMPLE_WIDTH))
    dims = [next(sides) * latent_multiple if n == FREE else n for n in tensor.dims]
    if tensor.dtype == "INT64":
        return torch.zeros(_EXAMPLE_ROWS, *dims, dtype=torch.int64)
    return torch.zeros(_EXAMPLE_ROWS, *dims)


def _dynamic_shapes(component: Component, latent_multiple: int) -> tuple[dict[int, Dim], ...]:
    rows = Dim("rows", min=1, max=component.max_batch_size)
    sides = [latent_multiple * Dim(name, min=1, max=1024) for name in ("h", "w")]
    shapes = []
    for tensor in component.inputs:
        free = iter(sides)
        axes = {0: rows}
        axes |= {i: next(free) for i, n in enumerate(tensor.dims, start=1) if n == FREE}
        shapes.append(axes)
    return tuple(shapes)
