"""Optimisation profiles: for every input the least, the best and the most shape. Pure.

One profile for each picture size, with the rows free and the sides fixed: an engine is fastest
where it need not be general, and a service draws few sizes. Graphs without free sides (text
encoders) get one profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exporters.spec import FREE, Component, Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Bounds:
    """The shapes that one input may have, rows first; `best` is what kernels are chosen for."""

    least: Shape
    best: Shape
    most: Shape

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.least, self.best, self.most, strict=True):
            if not 1 <= low <= middle <= high:
                raise ValueError(
                    f"bounds {self.least} <= {self.best} <= {self.most} are not in order"
                )


Profile = Mapping[str, Bounds]


def profiles(
    component: Component,
    sizes: Sequence[tuple[int, int]],
    *,
    downscale: int,
    best_rows: int | None = None,
) -> tuple[Profile, ...]:
    """The profiles of a component.

    Args:
        sizes: heights and widths of pictures, in pixels. Not read where no side is free.
        downscale: pixels to one latent: sides of floats are so much shorter than those of bytes.
        best_rows: the rows to be fastest at; None is the component's most, since a device is
            short of time when its batches are full.

    Raises:
        ValueError: no size; a size that latents cannot have; rows out of range.
    """
    most = component.max_batch_size
    best = most if best_rows is None else best_rows
    if not 1 <= best <= most:
        raise ValueError(f"{component.name}: best_rows is {best}, it must be 1 to {most}")
    if all(FREE not in tensor.dims for tensor in component.inputs):
        sizes = [(downscale, downscale)]
    if not sizes:
        raise ValueError(f"{component.name}: its sides are free: name at least one size")
    for height, width in sizes:
        if height < 1 or width < 1 or height % downscale or width % downscale:
            raise ValueError(f"size {height}x{width}: both must be multiples of {downscale}")
    return tuple(_profile(component, size, downscale, best) for size in dict.fromkeys(sizes))


def _profile(component: Component, size: tuple[int, int], downscale: int, best: int) -> Profile:
    dims = {tensor.name: _dims(component, tensor, size, downscale) for tensor in component.inputs}
    return {
        name: Bounds((1, *shape), (best, *shape), (component.max_batch_size, *shape))
        for name, shape in dims.items()
    }


def _dims(component: Component, tensor: Tensor, size: tuple[int, int], downscale: int) -> Shape:
    if tensor.dims.count(FREE) not in (0, 2):
        raise ValueError(f"{component.name}.{tensor.name}: only height and width may be free")
    unit = 1 if tensor.dtype == "UINT8" else downscale
    sides = iter(side // unit for side in size)
    return tuple(next(sides) if length == FREE else length for length in tensor.dims)


def merged(several: Iterable[Profile]) -> tuple[Profile, ...]:
    """One profile that spans all of them, best where the first is: smaller, and less fast."""
    first, *others = several
    return ({name: _span(name, bounds, others) for name, bounds in first.items()},)


def _span(name: str, first: Bounds, others: Sequence[Profile]) -> Bounds:
    every = [first, *(profile[name] for profile in others)]
    return Bounds(
        least=tuple(map(min, zip(*(bounds.least for bounds in every), strict=True))),
        best=first.best,
        most=tuple(map(max, zip(*(bounds.most for bounds in every), strict=True))),
    )


def lines(profile: Profile) -> Iterator[str]:
    """For people: `latents 1x4x64x64 .. 16x4x64x64`."""
    for name, bounds in profile.items():
        yield f"{name} {_x(bounds.least)} .. {_x(bounds.most)}"


def _x(shape: Shape) -> str:
    return "x".join(map(str, shape))
