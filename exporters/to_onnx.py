"""torch module -> ONNX file, opset 18, with free rows and sides.

An FP32 weight that a half holds exactly is stored as FP16 followed by a Cast to FP32. ONNX Runtime
folds the Cast when it loads the file (constant folding, on at every optimisation level), so
arithmetic and speed are those of plain FP32, and the file of a checkpoint that was saved in halves
has half the size. Whatever a half does not hold exactly stays as it is: nothing is lost. A graph in
FP16 (precision.py) comes as one, its weights and its arithmetic.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch.export import Dim

from exporters.errors import ExportError
from exporters.spec import FREE, Component, Tensor

OPSET = 18  # the newest that TensorRT and ONNX Runtime of these years both read whole
MIN_HALVED_ELEMENTS = 256  # below, a Cast costs more than it saves
MAX_EMBEDDED_BYTES = 1 << 30  # a protobuf message ends at 2 GiB; weights above go beside it

# Rows and sides of the example inputs: all different from one another and from every fixed
# length, so that the tracer cannot take one for another.
_EXAMPLE_ROWS, _EXAMPLE_HEIGHT, _EXAMPLE_WIDTH = 3, 4, 6  # sides in multiples of latent_multiple
_MOST_ROWS, _MOST_UNITS = 64, 256  # what the tracer may assume of rows and of a side


def export_onnx(
    module: torch.nn.Module,
    component: Component,
    path: Path,
    *,
    latent_multiple: int,
    downscale: int = 1,
) -> int:
    """Write `module` to `path`.

    Args:
        module: takes component.inputs in their order and returns component.outputs in theirs.
        latent_multiple: the sides of latents are multiples of it.
        downscale: pixels to one latent; the sides of uint8 inputs are so much larger.

    Returns:
        bytes of the weights as they are once loaded.

    Raises:
        ExportError: torch cannot trace the module.
    """
    model = _traced(module, component, latent_multiple, downscale)
    loaded_bytes = _weight_bytes(model)
    store_in_half(model)
    strip_metadata(model)
    beside = f"{path.name}.data" if _weight_bytes(model) > MAX_EMBEDDED_BYTES else None
    ir.save(model, path, external_data=beside)
    # onnxscript's rewriting rules remember the last graph that they saw, and it would its weights.
    for value in model.graph.initializers.values():
        value.const_value = None
    return loaded_bytes


def _traced(
    module: torch.nn.Module, component: Component, latent_multiple: int, downscale: int
) -> ir.Model:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, and of constants that it folds
            program = torch.onnx.export(
                module,
                tuple(_example(tensor, latent_multiple, downscale) for tensor in component.inputs),
                dynamo=True,
                opset_version=OPSET,
                input_names=[tensor.name for tensor in component.inputs],
                output_names=[tensor.name for tensor in component.outputs],
                dynamic_shapes=_dynamic_shapes(component, latent_multiple, downscale),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        why = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"{component.role}: torch {torch.__version__} cannot trace it: {why}"
        ) from error
    return program.model


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
        weight.const_value = None
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


_TYPES = {"FP32": torch.float32, "INT64": torch.int64, "UINT8": torch.uint8}


def _example(tensor: Tensor, latent_multiple: int, downscale: int) -> torch.Tensor:
    unit = latent_multiple * (downscale if tensor.dtype == "UINT8" else 1)
    sides = iter((_EXAMPLE_HEIGHT, _EXAMPLE_WIDTH))
    dims = [next(sides) * unit if n == FREE else n for n in tensor.dims]
    return torch.zeros(_EXAMPLE_ROWS, *dims, dtype=_TYPES[tensor.dtype])


def _dynamic_shapes(
    component: Component, latent_multiple: int, downscale: int
) -> tuple[dict[int, Dim], ...]:
    rows = Dim("rows", min=1, max=_MOST_ROWS)
    shapes = []
    for tensor in component.inputs:
        unit = latent_multiple * (downscale if tensor.dtype == "UINT8" else 1)
        free = iter([unit * Dim(name, min=1, max=_MOST_UNITS) for name in ("h", "w")])
        axes = {0: rows}
        axes |= {i: next(free) for i, n in enumerate(tensor.dims, start=1) if n == FREE}
        shapes.append(axes)
    return tuple(shapes)
