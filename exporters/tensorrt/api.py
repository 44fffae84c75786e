"""What TensorRT (10 and 11) and TensorRT-RTX have in common, as far as it is used here.

Neither publishes types for Python, and the first cannot even be installed without its maker's own
index: these protocols are what mypy checks the builder against. A unit test checks them against
the module that is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class NetworkTensor(Protocol):
    """A tensor of a network: -1 in `shape` is an axis that a profile must bound."""

    name: str
    shape: Sequence[int]
    dtype: Any  # a member of DataType


class Layer(Protocol):
    name: str
    type: Any  # a member of LayerType

    def get_output(self, index: int) -> NetworkTensor: ...


class Network(Protocol):
    num_inputs: int
    num_outputs: int
    num_layers: int

    def get_input(self, index: int) -> NetworkTensor: ...
    def get_output(self, index: int) -> NetworkTensor: ...
    def get_layer(self, index: int) -> Layer: ...


class ParserError(Protocol):
    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    num_errors: int

    def parse_from_file(self, path: str) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class OptimizationProfile(Protocol):
    def set_shape(
        self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]
    ) -> None: ...


class TimingCache(Protocol):
    def serialize(self) -> Any: ...  # anything with a buffer


class BuilderConfig(Protocol):
    builder_optimization_level: int
    hardware_compatibility_level: Any
    progress_monitor: Any
    num_compute_capabilities: int  # TensorRT-RTX alone

    def add_optimization_profile(self, profile: OptimizationProfile) -> int: ...
    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...
    def create_timing_cache(self, serialized: bytes) -> TimingCache: ...
    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> TimingCache | None: ...
    def set_compute_capability(self, capability: Any, index: int) -> bool: ...  # RTX alone


class Builder(Protocol):
    def create_network(self, flags: int) -> Network: ...
    def create_builder_config(self) -> BuilderConfig: ...
    def create_optimization_profile(self) -> OptimizationProfile: ...

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> Any:
        """The plan, as something with a buffer; None if it failed."""


class ExecutionContext(Protocol):
    active_optimization_profile: int

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class CudaEngine(Protocol):
    num_io_tensors: int
    num_optimization_profiles: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Any: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_profile_shape(self, name: str, index: int) -> Sequence[Sequence[int]]: ...
    def create_execution_context(self) -> ExecutionContext: ...


class Runtime(Protocol):
    def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None: ...


class Module(Protocol):
    """`tensorrt` or `tensorrt_rtx`."""

    __version__: str
    ILogger: Any
    IProgressMonitor: Any
    NetworkDefinitionCreationFlag: Any
    MemoryPoolType: Any
    HardwareCompatibilityLevel: Any
    TensorIOMode: Any
    ComputeCapability: Any  # TensorRT-RTX alone

    def Builder(self, logger: Any) -> Builder: ...  # noqa: N802 - classes of theirs
    def OnnxParser(self, network: Network, logger: Any) -> OnnxParser: ...  # noqa: N802
    def Runtime(self, logger: Any) -> Runtime: ...  # noqa: N802
