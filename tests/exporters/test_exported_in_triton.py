"""What the command publishes, in a real Triton: every model loads, and parts chain to the whole."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("pytriton", reason="the embedded extra is not installed")

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from rich.console import Console

from atelier.catalog import Catalog, ModelCard
from atelier.config import model_repository
from atelier.embedded.part import NotReadyError
from atelier.embedded.triton import Triton
from exporters.card import spec_of
from exporters.job import Request
from exporters.parity import feeds
from exporters.pipeline import export_model
from exporters.progress import Show
from tests.support.checkpoints import make

pytestmark = [pytest.mark.full, pytest.mark.real, pytest.mark.timeout(1800)]

Feed = dict[str, NDArray]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of one checkpoint: one in parts, and one in halves."""
    root = tmp_path_factory.mktemp("exported")
    checkpoint, repository = make("sd", root / "checkpoint"), root / "triton_repo"
    whole = Request(checkpoint, "whole", repository, shapes=[(32, 32)], max_batch=4, parts=2)
    halves = Request(
        checkpoint, "halves", repository, shapes=[(32, 32)], max_batch=4, precision="fp16"
    )
    for request in (whole, halves):
        export_model(request, Show(Console(quiet=True)))
    shutil.copytree(model_repository() / "backends", repository / "backends")
    return repository


@pytest.fixture(scope="module")
def client(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[triton.InferenceServerClient]:
    """A Triton with every model of the repository loaded."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("triton")
    part = Triton(0, folder, repository, port, secrets.token_hex(), threads=1)
    part.prepare()
    command = part.command()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command.argv, cwd=command.cwd, env=command.environment, stdout=log, stderr=log
        )
    try:
        _wait_until_ready(part, process)
        with triton.InferenceServerClient(part.address) as client:
            for card in Catalog.read(repository).cards.values():
                for model in (*card.components.triton_models, *card.parts):
                    client.load_model(
                        model, headers={"triton-grpc-protocol-admin-key": part.admin_key}
                    )
            yield client
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(part: Triton, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + part.start_seconds
    while True:
        try:
            return part.probe()
        except NotReadyError:
            assert process.poll() is None, (part.folder / "log").read_text()
            assert time.monotonic() < deadline, (part.folder / "log").read_text()
            time.sleep(0.1)


def infer(client: triton.InferenceServerClient, model: str, feed: Feed) -> Feed:
    """Call a Triton model; both ways arrays by name."""
    datatypes = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8", "float16": "FP16"}
    inputs = [
        triton.InferInput(name, array.shape, datatypes[array.dtype.name]).set_data_from_numpy(array)
        for name, array in feed.items()
    ]
    result = client.infer(model, inputs)
    return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}


def of(card: ModelCard, role: str) -> Feed:
    """Any inputs of a component, three rows."""
    component = next(c for c in spec_of(card).components if c.role == role)
    *_, feed = feeds(component, (10, 6), card.latents.downscale, 200)
    return feed


def test_parts_called_in_the_cards_order_are_the_denoiser(
    repository: Path, client: triton.InferenceServerClient
) -> None:
    card = Catalog.read(repository).cards["whole"]
    feed = of(card, "denoiser")
    expected = infer(client, card.components.denoiser, feed)

    known = dict(feed)
    for part in card.parts:
        inputs = client.get_model_metadata(part).inputs
        known |= infer(client, part, {tensor.name: known[tensor.name] for tensor in inputs})

    for name, value in expected.items():
        np.testing.assert_allclose(known[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("role", ["text_encoder", "denoiser", "vae_decoder", "vae_encoder"])
def test_halves_answer_nearly_as_the_whole(
    repository: Path, client: triton.InferenceServerClient, role: str
) -> None:
    cards = Catalog.read(repository).cards
    feed = of(cards["halves"], role)

    names = {name: getattr(card.components, role) for name, card in cards.items()}
    halves, whole = infer(client, names["halves"], feed), infer(client, names["whole"], feed)

    for name, value in whole.items():
        pixels = value.dtype == np.uint8
        np.testing.assert_allclose(
            halves[name].astype(float), value.astype(float), atol=2 if pixels else 2e-2
        )
