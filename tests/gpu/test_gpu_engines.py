"""Engines on a GPU: both libraries build tiny-image, and the engines give what the graphs give.

`make gpu-check` runs this, and fails where there is no GPU.
"""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.chain import Chain, onnx_path
from exporters.card import spec_of
from exporters.int8 import Recorder
from exporters.tensorrt.build import build
from exporters.tensorrt.engine_cache import EngineCache
from exporters.tensorrt.library import gpu_here, load
from exporters.tensorrt.options import Options
from exporters.tensorrt.profiles import profiles
from exporters.tensorrt.read_back import read_back
from exporters.tensorrt.record import EngineError
from exporters.tensorrt.session import EngineSession

pytestmark = pytest.mark.gpu

REPOSITORY = Path("triton_repo")
PROMPTS = ("a red circle on a blue background", "a small white cross at the left, on black")
ROLES = ("text_encoder", "denoiser", "vae_decoder")
# TensorRT multiplies FP32 matrices in TF32, which keeps ten bits.
MIN_COSINE, MIN_PSNR_DB = 0.999, 30.0


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def library(request):
    if request.param == "tensorrt":
        return load("tensorrt")
    capability = gpu_here().rpartition("(")[2].rstrip(")")
    return load("tensorrt-rtx", [capability])


@pytest.fixture(scope="module")
def chain():
    return Chain(REPOSITORY, "tiny_image.toml")


@pytest.fixture(scope="module")
def engines(library, chain, tmp_path_factory):
    """The three plans of tiny-image, by role."""
    folder = tmp_path_factory.mktemp("engines")
    spec = spec_of(chain.card)
    plans = {}
    for role in ROLES:
        component = getattr(spec, role)
        plans[role] = folder / role / "model.plan"
        build(
            library,
            onnx_path(REPOSITORY, component.name),
            plans[role],
            profiles(component, [(64, 64), (128, 128)], downscale=spec.downscale),
            cache=EngineCache(folder / "cache"),
        )
    return plans


def test_the_library_sees_in_the_plan_what_the_record_says(library, engines):
    for plan in engines.values():
        _, depth = read_back(library, plan)
        assert depth == "whole"


def test_each_engine_gives_what_its_graph_gives(library, chain, engines):
    plain = {role: getattr(chain, role) for role in ROLES}
    recorded = {role: Recorder(session) for role, session in plain.items()}
    for role in ROLES:
        setattr(chain, role, recorded[role])
    chain.draw(PROMPTS, seed=1, steps=10, guidance=1.5, pixels=64)
    for role in ROLES:
        setattr(chain, role, plain[role])

    for role in ROLES:
        session = EngineSession(library.module, engines[role].read_bytes())
        for feed in recorded[role].feeds:
            for want, got in zip(plain[role].run(None, feed), session.run(None, feed), strict=True):
                a, b = want.astype(np.float64).ravel(), got.astype(np.float64).ravel()
                assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) > MIN_COSINE, role
        session.close()


def test_whole_pictures_are_those_of_the_graphs(library, chain, engines):
    expected = chain.draw(PROMPTS, seed=2, steps=10, guidance=1.5, pixels=64)
    on_gpu = Chain(REPOSITORY, "tiny_image.toml")
    for role, plan in engines.items():
        setattr(on_gpu, role, EngineSession(library.module, plan.read_bytes()))

    got = on_gpu.draw(PROMPTS, seed=2, steps=10, guidance=1.5, pixels=64)

    error = np.mean((got.astype(float) - expected) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > MIN_PSNR_DB


def test_a_batch_past_the_profile_is_refused_by_its_shape(library, engines):
    session = EngineSession(library.module, engines["text_encoder"].read_bytes())

    with pytest.raises(EngineError, match=r"no profile of the engine fits input_ids \(17, 32\)"):
        session.run(None, {"input_ids": np.zeros((17, 32), np.int64)})


def test_what_tensorrt_measured_is_kept(library, chain, tmp_path):
    if library.ahead_of_time:
        pytest.skip("TensorRT-RTX measures nothing when it builds")
    component = spec_of(chain.card).text_encoder
    cache = EngineCache(tmp_path / "cache")
    for rows in (1, 2):  # another engine from the same kernels
        build(
            library,
            onnx_path(REPOSITORY, component.name),
            tmp_path / "model.plan",
            profiles(component, [], downscale=4, best_rows=rows),
            Options(optimization_level=rows),
            cache=cache,
        )

    assert cache.timing_path(library).stat().st_size > 0
