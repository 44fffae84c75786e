"""Loading an engine where there is no driver: said in a sentence, by the session and by Triton."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("tensorrt_rtx", reason="the tensorrt extra is not installed")

import tensorrt_rtx

from exporters.tensorrt.library import gpu_here, load
from exporters.tensorrt.record import EngineError
from exporters.tensorrt.session import EngineSession

BACKEND = Path(__file__).parents[3] / "triton_repo" / "backends" / "tensorrt_rtx" / "model.py"


@pytest.fixture(autouse=True)
def no_gpu():
    try:
        gpu_here()
    except EngineError:
        return
    pytest.skip("there is a GPU here: make gpu-check tells more")


def test_without_a_driver_an_engine_is_not_loaded():
    with pytest.raises(EngineError, match=r"CUDA: cudaError.*is there an NVIDIA GPU"):
        EngineSession(tensorrt_rtx, b"")


def test_without_a_gpu_the_name_of_one_is_not_known():
    with pytest.raises(EngineError, match="no NVIDIA GPU here"):
        gpu_here()


def test_tensorrt_says_which_library_builds_without_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx)  # as if it were installed

    with pytest.raises(EngineError, match="tensorrt-rtx builds without one"):
        load("tensorrt")
    with pytest.raises(EngineError, match="SM86: TensorRT builds for the GPU of this machine"):
        load("tensorrt", ["SM86"])


def test_triton_hears_why_a_model_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace())
    spec = importlib.util.spec_from_file_location("tensorrt_rtx_backend", BACKEND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.plan").write_bytes(b"plan")
    args = {
        "model_repository": str(tmp_path),
        "model_version": "1",
        "model_instance_device_id": "0",
    }

    with pytest.raises(EngineError, match="is there an NVIDIA GPU"):
        module.TritonPythonModel().initialize(args)


def test_make_gpu_check_fails_here_and_says_what_is_missing():
    script = Path(__file__).parents[3] / "scripts" / "gpu_check.sh"

    done = subprocess.run(
        ["sh", script], cwd=script.parents[1], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 1
    assert "gpu-check: no NVIDIA GPU here" in done.stderr
    assert done.stdout == ""
