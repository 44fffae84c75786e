"""How an engine is built, where there is a choice. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """How to build.

    Attributes:
        workspace_bytes: the most scratch memory that a kernel may take; None is the GPU's all.
        optimization_level: 0 to 5, TensorRT alone: how long to look for faster kernels.
        any_ampere_or_later: TensorRT alone: run on other GPUs than this one, and less fast.
    """

    workspace_bytes: int | None = None
    optimization_level: int = 3
    any_ampere_or_later: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level is {self.optimization_level}, it must be 0 to 5")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise ValueError(f"workspace_bytes is {self.workspace_bytes}, it must be positive")
