"""Runs an engine on the GPU, with ONNX Runtime's `run`: arrays in, arrays out.

For TensorRT-RTX, whose plans Triton's own TensorRT backend cannot read (the backend
triton_repo/backends/tensorrt_rtx uses this), and for comparing an engine of either library with
the graph it was built from. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda
from numpy.typing import NDArray

from exporters.tensorrt.api import CudaEngine, Module
from exporters.tensorrt.build_log import BuildLog
from exporters.tensorrt.record import TRITON_TYPES, EngineError

Array = NDArray[Any]

_NUMPY = {
    "FP32": np.float32,
    "FP16": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


class EngineSession:
    """An engine loaded on one GPU, with the memory for the largest batch that it has seen."""

    def __init__(self, module: Module, plan: bytes, device: int = 0) -> None:
        """Load a plan.

        Raises:
            EngineError: there is no driver or GPU, or the library refuses the plan on this one.
        """
        _call(cuda.cudaSetDevice(device))
        self._log = BuildLog(module)
        self._runtime = module.Runtime(self._log.logger)
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._log.failure("loading the engine", ())
        self._engine: CudaEngine = engine
        self._context = engine.create_execution_context()
        self._stream = _call(cuda.cudaStreamCreate())
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> address, bytes
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = module.TensorIOMode.INPUT
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == given]
        self.outputs = [name for name in names if name not in self.inputs]

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
        """One run.

        Args:
            names: of the outputs wanted; None is all.
            feed: an array for each input, rows first.

        Raises:
            EngineError: no profile of the engine fits these shapes, or CUDA fails.
        """
        self._choose_profile(feed)
        # Held until the copies from them are done.
        given = {n: np.ascontiguousarray(feed[n], self._dtype(n)) for n in self.inputs}
        for name, array in given.items():
            self._context.set_input_shape(name, array.shape)
            self._copy(self._buffer(name, array.nbytes), array.ctypes.data, array.nbytes)
        results = {}
        for name in self.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            results[name] = np.empty(shape, self._dtype(name))
            self._buffer(name, results[name].nbytes)
        if not self._context.execute_async_v3(int(self._stream)):
            raise self._log.failure("running the engine", ())
        for name, array in results.items():
            self._copy(array.ctypes.data, self._buffers[name][0], array.nbytes)
        _call(cuda.cudaStreamSynchronize(self._stream))
        return [results[name] for name in names or self.outputs]

    def close(self) -> None:
        """Give the GPU's memory back."""
        for address, _ in self._buffers.values():
            _call(cuda.cudaFree(address))
        self._buffers.clear()
        _call(cuda.cudaStreamDestroy(self._stream))

    def _choose_profile(self, feed: Mapping[str, Array]) -> None:
        for index in range(self._engine.num_optimization_profiles):
            if all(self._fits(name, feed[name].shape, index) for name in self.inputs):
                if index != self._context.active_optimization_profile:
                    self._context.set_optimization_profile_async(index, int(self._stream))
                return
        shapes = ", ".join(f"{name} {feed[name].shape}" for name in self.inputs)
        raise EngineError(f"no profile of the engine fits {shapes}: build it with that size")

    def _fits(self, name: str, shape: tuple[int, ...], profile: int) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, profile)
        return all(
            low <= length <= high for low, length, high in zip(least, shape, most, strict=True)
        )

    def _dtype(self, name: str) -> Any:
        return _NUMPY[TRITON_TYPES[self._engine.get_tensor_dtype(name).name]]

    def _buffer(self, name: str, size: int) -> int:
        """Memory of at least `size` bytes on the GPU, told to the engine."""
        address, there = self._buffers.get(name, (0, 0))
        if there < size:
            if there:
                _call(cuda.cudaFree(address))
            address = int(_call(cuda.cudaMalloc(size)))
            self._buffers[name] = address, size
        self._context.set_tensor_address(name, address)
        return address

    def _copy(self, target: int, source: int, size: int) -> None:
        kind = cuda.cudaMemcpyKind.cudaMemcpyDefault  # the driver knows whose an address is
        _call(cuda.cudaMemcpyAsync(target, source, size, kind, self._stream))


def _call(result: tuple[Any, ...]) -> Any:
    """What a call of CUDA gave, after its error."""
    error, *values = result
    if error != cuda.cudaError_t.cudaSuccess:
        raise EngineError(f"CUDA: {error.name}: is there an NVIDIA GPU with a driver for CUDA 13?")
    return values[0] if values else None
