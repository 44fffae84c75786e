"""A component in FP16, with what must stay in FP32 kept so.

Weights are rounded to halves and arithmetic is in halves, as GPUs like it. The modules that a
family keeps (Kept) hold and compute in FP32: what comes into them is widened, what leaves them is
narrowed again. Hooks do it, so the modules stay what their models look for. On a CPU such a graph
is slow, because ONNX Runtime widens nearly everything; there, FP32 is the precision to serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exporters.families.family import Kept
from exporters.step_graph import LatentScale


def kept_whole(role: str, kept: Sequence[Kept]) -> bool:
    """Whether a component stays in FP32 altogether."""
    return any(role in rule.roles for rule in kept)


def halve(module: nn.Module, kept: Sequence[Kept]) -> list[str]:
    """Turn a component to FP16 in place, but for what is kept; returns the names of that."""
    module.half()
    module.dtype = torch.float16
    single = []
    for name, part in module.named_modules():
        if isinstance(part, LatentScale):  # computes outside of the autoencoder
            part.float()
        elif any(rule.covers(name, part) for rule in kept):
            part.float()
            part.register_forward_pre_hook(_widen, with_kwargs=True)
            part.register_forward_hook(_narrow)
            single.append(name)
    return single


def _widen(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return (
        tuple(_cast(value, torch.float32) for value in args),
        {name: _cast(value, torch.float32) for name, value in kwargs.items()},
    )


def _narrow(module: nn.Module, args: Any, output: Any) -> Any:
    return _cast(output, torch.float16)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value
