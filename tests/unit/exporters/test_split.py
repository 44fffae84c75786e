"""A graph in parts gives the numbers of the whole."""

# ruff: noqa: E402 - what the export extra brings is imported where it is there

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
onnx = pytest.importorskip("onnx")

import numpy as np

from exporters.errors import ExportError, ParityError
from exporters.measure import open_session
from exporters.spec import FREE, Component, Tensor
from exporters.split import compare_parts, split
from exporters.to_onnx import export_onnx

COMPONENT = Component(
    name="toy",
    inputs=(Tensor("x", "FP32", (4, FREE, FREE)), Tensor("scale", "FP32", (1,))),
    outputs=(Tensor("y", "FP32", (4, FREE, FREE)),),
    max_batch_size=4,
)
FEED = {
    "x": np.random.default_rng(0).standard_normal((2, 4, 8, 6), np.float32),
    "scale": np.array([[0.5], [2.0]], np.float32),
}


class Blocks(torch.nn.Module):
    """Four residual blocks and a long skip, as a UNet has; half of the weights are halves."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            torch.nn.Conv2d(4, 4, 3, padding=1).half().float() if i % 2 else
            torch.nn.Conv2d(4, 4, 3, padding=1) for i in range(4)
        )  # fmt: skip

    def forward(self, x, scale):
        first = x
        for block in self.blocks:
            x = x + torch.tanh(block(x)) * scale[:, :, None, None]
        return x + first.flatten(2).mean(-1)[:, :, None, None].expand_as(x)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "toy.onnx"
    export_onnx(Blocks().eval(), COMPONENT, path, latent_multiple=2)
    return path


@pytest.mark.parametrize("count", [2, 3, 4])
def test_parts_chain_to_the_whole_and_share_its_weights(
    source: Path, tmp_path: Path, count: int
) -> None:
    targets = [tmp_path / f"{k}.onnx" for k in range(count)]

    parts = split(source, targets)

    assert compare_parts(source, targets, FEED) <= 1e-6
    assert all(part.weight_bytes > 0 for part in parts)
    whole = sum(len(t.raw_data) for t in onnx.load(source).graph.initializer)
    assert sum(part.weight_bytes for part in parts) == pytest.approx(whole, rel=0.2)
    assert parts[-1].outputs == ("y",)
    known = {"x", "scale"}
    for part, path in zip(parts, targets, strict=True):
        assert set(part.inputs) == {value.name for value in open_session(path).get_inputs()}
        assert set(part.inputs) <= known
        known |= set(part.outputs)


def test_more_parts_than_there_are_blocks_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--parts 40"):
        split(source, [tmp_path / f"{k}.onnx" for k in range(40)])


def test_a_chain_that_gives_other_numbers_is_refused(source: Path, tmp_path: Path) -> None:
    targets = [tmp_path / f"{k}.onnx" for k in range(2)]
    split(source, targets)
    model = onnx.load(targets[1])
    bias = next(t for t in model.graph.initializer if list(t.dims) == [4])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(4, 3, np.float32), bias.name))
    onnx.save(model, targets[1])
    with pytest.raises(ParityError, match="off the whole"):
        compare_parts(source, targets, FEED)
