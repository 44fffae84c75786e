"""What the exporter needs to know of a family of checkpoints: one declaration each.

A family says how the folders of a checkpoint become the components of ExportSpec, what is offered
of it, which operators stay in FP32 when the rest is in FP16, and when an export counts as equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from exporters.gate import INT8_GATE, Gate, Int8Gate, Threshold
from exporters.spec import ExportSpec, Precision

if TYPE_CHECKING:
    from exporters.checkpoint import Checkpoint


@dataclass(frozen=True)
class Kept:
    """Modules that compute in FP32 when the rest computes in FP16.

    Attributes:
        why: told by the card and by docs/exporters.md.
        classes: names of the modules' classes.
        names: last parts of the modules' names.
        roles: components that stay in FP32 whole.
    """

    why: str
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The rule in words."""
        what = ", ".join((*self.classes, *self.names, *self.roles))
        return f"{what}: {self.why}"

    def covers(self, name: str, module: nn.Module) -> bool:
        """Whether the submodule `name` of a component is meant."""
        return type(module).__name__ in self.classes or name.rpartition(".")[2] in self.names


@dataclass(frozen=True)
class Graph:
    """How one component is made.

    Attributes:
        parts: folders of the checkpoint whose weights are in it.
        build: the module, from those parts; its tensors are the component's, in order.
    """

    parts: Callable[[Checkpoint], tuple[str, ...]]
    build: Callable[[Mapping[str, nn.Module], Checkpoint, ExportSpec], nn.Module]


@dataclass(frozen=True)
class Defaults:
    """What a user gets who asks for nothing."""

    steps: int
    guidance: float
    max_steps: int = 100
    max_guidance: float = 20.0
    presets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: as `--family` and the card say it.
        pipelines: classes of model_index.json that are this family.
        fits: whether a checkpoint of such a class is this family, where several have it.
        pipeline: diffusers' class, the reference.
        parts: folders that must be there; `optional` may be.
        samplers: what is offered, the default first; the card takes those its schedule allows.
        scheduler: the reference's scheduler for the check of whole pictures, by
            scheduler_config.json; it takes one call a step and does nothing that is not linear.
        ask: draws with the reference pipeline; gives float pictures 0 to 1.
        native: width and height that it was trained on, in pixels.
        multiple: sides of the latents must be a multiple of it.
        gates: by the precision that a graph is traced in; `int8` is of what is quantized then.
    """

    name: str
    kind: Literal["image", "video"]
    pipelines: tuple[str, ...]
    pipeline: Callable[[], type]
    parts: tuple[str, ...]
    spec: Callable[[Checkpoint, str], ExportSpec]
    graphs: Mapping[str, Graph]
    multiple: Callable[[Checkpoint], int]
    native: Callable[[Checkpoint, ExportSpec], tuple[int, int]]
    samplers: tuple[str, ...]
    defaults: Defaults
    scheduler: Callable[[Mapping[str, Any]], Any]
    ask: Callable[..., Any]
    kept: tuple[Kept, ...]
    gates: Mapping[Precision, Gate]
    int8: Int8Gate = INT8_GATE
    optional: tuple[str, ...] = ()
    tokenizers: tuple[str, ...] = ("tokenizer",)
    guided: bool = True
    fits: Callable[[Mapping[str, Mapping[str, Any]]], bool] = lambda configs: True


NORMS = Kept(
    "their sums over thousands of squares leave what a half holds",
    classes=("GroupNorm", "LayerNorm", "RMSNorm", "T5LayerNorm", "UMT5LayerNorm", "FP32LayerNorm"),
)

# In single precision the graph is the checkpoint's but for the order of sums. In half a network of
# many layers loses about three digits; Stable Diffusion 1.5 gave 1e-2 and a cosine of 1.000000.
# Pixels are in levels of 0 to 255, whole pictures in dB of peak signal to noise.
GATES: Mapping[Precision, Gate] = {
    "fp32": Gate(Threshold(0.9999, 2e-2), Threshold(0.9999, 2), min_psnr=40.0),
    "fp16": Gate(Threshold(0.999, 0.25), Threshold(0.999, 16), min_psnr=28.0),
}
