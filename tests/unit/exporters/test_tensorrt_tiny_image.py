"""Engines of tiny-image's three graphs, built here by TensorRT-RTX and read back."""

from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the export extra is not installed")
pytest.importorskip("tensorrt_rtx", reason="the tensorrt extra is not installed")

from atelier.catalog import ModelCard
from exporters.card import spec_of
from exporters.repository import model_path
from exporters.tensorrt.build import build
from exporters.tensorrt.library import load
from exporters.tensorrt.profiles import Bounds, profiles
from exporters.tensorrt.read_back import read_back
from exporters.tensorrt.record import Binding

REPOSITORY = Path("triton_repo")
CAPABILITIES = ("SM80", "SM89", "SM120")


@pytest.fixture(scope="module")
def spec():
    return spec_of(ModelCard.parse((REPOSITORY / "tiny_image.toml").read_text()))


@pytest.fixture(scope="module")
def engines(spec, tmp_path_factory):
    """By role, what the library and the record say of each plan."""
    folder, library = tmp_path_factory.mktemp("engines"), load("tensorrt-rtx", CAPABILITIES)
    found = {}
    for role in ("text_encoder", "denoiser", "vae_decoder"):
        component = getattr(spec, role)
        plan = folder / role / "model.plan"
        bounds = profiles(component, [(64, 64), (64, 128)], downscale=spec.downscale)
        build(library, model_path(REPOSITORY, component), plan, bounds)
        found[role] = component, *read_back(library, plan)
    return found


def test_names_types_and_dims_are_the_contracts(engines):
    for component, engine, depth in engines.values():
        for tensors, bindings in (
            (component.inputs, engine.inputs),
            (component.outputs, engine.outputs),
        ):
            assert bindings == tuple(Binding(t.name, t.dtype, (-1, *t.dims)) for t in tensors)
        assert depth in ("header", "whole")


def test_profiles_span_the_sizes_and_every_number_of_rows(engines):
    (text,) = engines["text_encoder"][1].profiles
    (denoiser,) = engines["denoiser"][1].profiles

    assert text == {"input_ids": Bounds((1, 32), (16, 32), (16, 32))}
    assert denoiser["latents"] == Bounds((1, 4, 16, 16), (16, 4, 16, 16), (16, 4, 16, 32))
    assert denoiser["coefficients"] == Bounds((1, 6), (16, 6), (16, 6))


def test_they_are_built_for_the_gpus_named_and_hold_the_weights(engines):
    for component, engine, _ in engines.values():
        graph = model_path(REPOSITORY, component)
        assert engine.devices == CAPABILITIES
        assert engine.plan_bytes > graph.stat().st_size
        assert sum(engine.matrix_types.values()) > 10
