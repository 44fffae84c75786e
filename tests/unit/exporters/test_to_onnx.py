"""The ONNX files: free batch axes, weights in halves that cost nothing, no trace of the machine."""

import gc
import weakref

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
onnx = pytest.importorskip("onnx")

import numpy as np  # noqa: E402

from exporters.measure import Shape, measure, open_session  # noqa: E402
from exporters.spec import FREE, Component, Tensor  # noqa: E402
from exporters.to_onnx import export_onnx  # noqa: E402

COMPONENT = Component(
    name="toy",
    inputs=(Tensor("x", "FP32", (4, FREE, FREE)),),
    outputs=(Tensor("y", "FP32", (8, FREE, FREE)),),
    max_batch_size=16,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*The axis name.*:UserWarning"),
]


class Toy(torch.nn.Module):
    """A convolution whose weights are halves, and a table that no half holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 8, 3, padding=1).half().float()
        self.table = torch.nn.Parameter(torch.full((8, 32), 1 / 3))

    def forward(self, x):
        return self.conv(x) * self.table.sum(dim=1)[None, :, None, None]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    module, path = Toy().eval(), tmp_path_factory.mktemp("onnx") / "toy.onnx"
    loaded_bytes = export_onnx(module, COMPONENT, path, latent_multiple=2)
    return module, path, loaded_bytes


@pytest.mark.parametrize("kept", ["single", "half"])
def test_the_weights_of_what_was_exported_can_be_let_go(kept, tmp_path):
    """A large model's would stay beside what ONNX Runtime makes of them."""
    module = torch.nn.Conv2d(4, 8, 3, padding=1).requires_grad_(False)
    module = module.half().float() if kept == "half" else module
    weights = weakref.ref(module.weight)
    export_onnx(module.eval(), COMPONENT, tmp_path / "toy.onnx", latent_multiple=2)
    del module

    gc.collect()

    assert weights() is None


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (16, 4, 6, 10)])
def test_any_rows_and_any_size_give_what_torch_gives(exported, shape):
    module, path, _ = exported
    x = torch.randn(shape)

    (got,) = open_session(path).run(["y"], {"x": x.numpy()})

    np.testing.assert_allclose(got, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_only_weights_that_a_half_holds_exactly_are_stored_in_halves(exported):
    _, path, loaded_bytes = exported
    model = onnx.load(path)
    halves = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT16]

    assert [list(half.dims) for half in halves] == [[8, 4, 3, 3]]
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 1
    assert loaded_bytes >= 4 * (8 * 4 * 3 * 3 + 8)


def test_nothing_in_the_file_tells_of_the_machine(exported):
    _, path, _ = exported
    model = onnx.load(path)

    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b".py" not in path.read_bytes()


def test_costs_are_measured_in_a_process_of_their_own(exported):
    _, path, _ = exported

    cost = measure(path, Shape(8, 6, downscale=4), rows=(1, 4))

    assert [rows for rows, _ in cost.seconds] == [1, 4]
    assert all(seconds > 0 for _, seconds in cost.seconds)
    assert cost.load_seconds > 0
    assert cost.bytes_per_row >= 0
    assert cost.resident_bytes > 0
