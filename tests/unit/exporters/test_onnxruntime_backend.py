"""The Python-based backend, with stand-ins for Triton's module and for ONNX Runtime's session."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BACKEND = Path(__file__).parents[3] / "triton_repo" / "backends" / "onnxruntime" / "model.py"


@dataclass
class FakeTensor:
    name: str
    array: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.array


@dataclass
class FakeResponse:
    output_tensors: tuple = ()
    error: Exception | None = None


class FakeSession:
    """y = 2x; fails on a negative number, as a Gather fails on an id out of range."""

    def __init__(self) -> None:
        self.rows_of_runs: list[int] = []

    def run(self, names, feed):
        assert names == ["y"]
        self.rows_of_runs.append(len(feed["x"]))
        if (feed["x"] < 0).any():
            raise RuntimeError("out of range")
        return [feed["x"] * 2]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch):
    utils = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: FakeTensor(name, request[name]),
        Tensor=FakeTensor,
        InferenceResponse=FakeResponse,
        TritonError=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    spec = importlib.util.spec_from_file_location("onnxruntime_backend", BACKEND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.session, model.inputs, model.outputs = FakeSession(), ["x"], ["y"]
    return model


def request(*rows: int, width: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.array([[row] * width for row in rows], np.int64)}


def answers(responses: list[FakeResponse]) -> list[list[int] | None]:
    return [r.output_tensors[0].array[:, 0].tolist() if not r.error else None for r in responses]


def test_requests_of_one_shape_are_one_run_and_are_split_again(model):
    responses = model.execute([request(1, 2), request(3), request(4, 5, 6)])

    assert answers(responses) == [[2, 4], [6], [8, 10, 12]]
    assert model.session.rows_of_runs == [6]


def test_other_shapes_run_apart_and_answers_keep_their_order(model):
    responses = model.execute([request(1), request(2, width=3), request(3)])

    assert answers(responses) == [[2], [4], [6]]
    assert model.session.rows_of_runs == [2, 1]


def test_a_bad_request_fails_alone(model):
    responses = model.execute([request(1), request(-1), request(3)])

    assert answers(responses) == [[2], None, [6]]
    assert "out of range" in str(responses[1].error)
    assert model.session.rows_of_runs == [3, 1, 1, 1]
