"""ONNX file -> engine, the same way with both libraries."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from exporters.tensorrt.api import Builder as BuilderApi
from exporters.tensorrt.api import BuilderConfig, Network, NetworkTensor
from exporters.tensorrt.build_log import BuildLog, BuildProgress, Progress, parse_error
from exporters.tensorrt.engine_cache import EngineCache, engine_key, write_whole
from exporters.tensorrt.graph import Graph
from exporters.tensorrt.library import Library
from exporters.tensorrt.options import Options
from exporters.tensorrt.profiles import Profile, merged
from exporters.tensorrt.record import (
    TRITON_TYPES,
    Binding,
    Engine,
    EngineError,
    record_path,
    to_json,
)

_MATRIX_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")


def build(
    library: Library,
    onnx_path: Path,
    plan: Path,
    profiles: Sequence[Profile],
    options: Options | None = None,
    *,
    cache: EngineCache | None = None,
    progress: Progress = lambda done, phase: None,
) -> Engine:
    """Build an engine, or find it built, and write it to `plan` with its record beside it.

    Args:
        onnx_path: types are as the graph says: for an FP16 engine, a graph in FP16.
        profiles: of profiles.profiles; bounds for each input with a free axis.
        cache: where built engines are kept and looked for.
        progress: takes what part is done and the library's name of the phase.

    Raises:
        EngineError: the library refuses; names the ONNX node where it can be known.
        OSError: no room; `plan` is as it was before.
    """
    options = options or Options()
    graph = Graph.read(onnx_path)
    if library.ahead_of_time and profiles:
        profiles = merged(profiles)
    key = engine_key(graph.sha256, library, profiles, options)
    if cache is not None and (known := cache.get(key, plan)):
        progress(1.0, "found built")
        return known
    engine, content = _Build(library, graph, options, progress, cache).run(profiles)
    write_whole(plan, content)
    write_whole(record_path(plan), to_json(engine).encode())
    if cache is not None:
        cache.put(key, plan, engine)
    progress(1.0, "written")
    return engine


class _Build:
    """One build. The library's objects must outlive one another: the builder keeps the logger."""

    def __init__(
        self,
        library: Library,
        graph: Graph,
        options: Options,
        progress: Progress,
        cache: EngineCache | None,
    ) -> None:
        self._library, self._module = library, library.module
        self._graph, self._options = graph, options
        self._log = BuildLog(self._module)
        self._progress = BuildProgress(self._module, progress)
        self._timing = None if library.ahead_of_time or not cache else cache.timing_path(library)

    def run(self, profiles: Sequence[Profile]) -> tuple[Engine, memoryview]:
        """The engine's record and its plan."""
        with self._progress.holding_interrupts():
            return self._run(profiles)

    def _run(self, profiles: Sequence[Profile]) -> tuple[Engine, memoryview]:
        started = time.process_time()
        builder = self._module.Builder(self._log.logger)
        network = self._parse(builder)
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        config = self._configure(builder)
        for profile in profiles:
            self._add_profile(builder, config, profile, inputs)
        content = builder.build_serialized_network(network, config)
        if content is None:
            raise self._log.failure(f"building {self._graph.path.name}", self._graph.nodes)
        self._keep_timing(config)
        content = memoryview(content)
        engine = Engine(
            library=self._library.name,
            version=self._library.version,
            devices=self._library.devices,
            graph_sha256=self._graph.sha256,
            plan_sha256=hashlib.sha256(content).hexdigest(),
            plan_bytes=content.nbytes,
            inputs=tuple(map(_binding, inputs)),
            outputs=tuple(map(_binding, outputs)),
            profiles=tuple(profiles),
            matrix_types=_matrix_types(network),
            cpu_seconds=round(time.process_time() - started, 3),
        )
        return engine, content

    def _parse(self, builder: BuilderApi) -> Network:
        strongly_typed = 1 << int(self._module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(strongly_typed)
        parser = self._module.OnnxParser(network, self._log.logger)
        # By path, so that the parser finds weights that lie beside the file.
        if not parser.parse_from_file(str(self._graph.path)):
            raise parse_error(f"reading {self._graph.path.name}", parser)
        return network

    def _configure(self, builder: BuilderApi) -> BuilderConfig:
        module, options = self._module, self._options
        config = builder.create_builder_config()
        config.progress_monitor = self._progress.monitor
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if self._library.ahead_of_time:
            config.num_compute_capabilities = len(self._library.devices)
            for index, name in enumerate(self._library.devices):
                config.set_compute_capability(getattr(module.ComputeCapability, name), index)
            return config
        config.builder_optimization_level = options.optimization_level
        if options.any_ampere_or_later:
            config.hardware_compatibility_level = module.HardwareCompatibilityLevel.AMPERE_PLUS
        if self._timing is not None:
            known = self._timing.read_bytes() if self._timing.is_file() else b""
            if not config.set_timing_cache(config.create_timing_cache(known), False):
                # Of another driver: begun anew.
                config.set_timing_cache(config.create_timing_cache(b""), False)
        return config

    def _add_profile(
        self,
        builder: BuilderApi,
        config: BuilderConfig,
        profile: Profile,
        inputs: Sequence[NetworkTensor],
    ) -> None:
        names = {tensor.name for tensor in inputs}
        if profile.keys() != names:
            raise EngineError(
                f"{self._graph.path.name} has the inputs {', '.join(sorted(names))};"
                f" the profile bounds {', '.join(sorted(profile))}"
            )
        wanted = builder.create_optimization_profile()
        for name, bounds in profile.items():
            wanted.set_shape(name, bounds.least, bounds.best, bounds.most)
        if config.add_optimization_profile(wanted) < 0:
            raise self._log.failure("adding a profile", self._graph.nodes)

    def _keep_timing(self, config: BuilderConfig) -> None:
        timing = config.get_timing_cache() if self._timing is not None else None
        if self._timing is not None and timing is not None:
            write_whole(self._timing, bytes(timing.serialize()))


def _binding(tensor: NetworkTensor) -> Binding:
    dtype = TRITON_TYPES.get(tensor.dtype.name)
    if dtype is None:
        raise EngineError(
            f"{tensor.name} has the type {tensor.dtype.name}; an engine that is served has"
            f" {', '.join(TRITON_TYPES.values())}"
        )
    return Binding(tensor.name, dtype, tuple(tensor.shape))


def _matrix_types(network: Network) -> dict[str, int]:
    """Types of what the matrix layers give, before the library fuses them."""
    layers = (network.get_layer(i) for i in range(network.num_layers))
    return dict(
        Counter(
            layer.get_output(0).dtype.name for layer in layers if layer.type.name in _MATRIX_LAYERS
        )
    )
