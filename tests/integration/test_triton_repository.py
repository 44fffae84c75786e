"""The committed repository in a real Triton: loads, draws, batches, and isolates a bad request."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tokenizers import Tokenizer

from agent.sampler import noise, plan
from atelier.catalog import Catalog, ModelCard
from atelier.config import model_repository
from atelier.embedded.part import NotReadyError
from atelier.embedded.triton import Triton
from exporters.tiny.checker import measure

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

Feed = dict[str, NDArray]
ADMIN_HEADER = "triton-grpc-protocol-admin-key"
REPOSITORY = model_repository()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A running Triton without models."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("triton")
    part = Triton(0, folder, REPOSITORY, port, secrets.token_hex(), threads=1)
    part.prepare()
    command = part.command()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command.argv, cwd=command.cwd, env=command.environment, stdout=log, stderr=log
        )
    try:
        _wait_until_ready(part, process)
        yield part
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(part: Triton, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + part.start_seconds
    while True:
        try:
            return part.probe()
        except NotReadyError:
            log = (part.folder / "log").read_text()
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return Catalog.read(REPOSITORY).cards["tiny-image"]


@pytest.fixture(scope="module")
def client(server: Triton, card: ModelCard) -> Iterator[triton.InferenceServerClient]:
    """A client of a Triton that has the card's models loaded."""
    with triton.InferenceServerClient(server.address) as client:
        for model in card.components.triton_models:
            client.load_model(model, headers={ADMIN_HEADER: server.admin_key})
        yield client


Infer = Callable[[str, Feed], Feed]


@pytest.fixture(scope="module")
def infer(client: triton.InferenceServerClient) -> Infer:
    """infer(model, inputs) -> outputs, both as arrays by name."""
    datatypes = {"float32": "FP32", "int64": "INT64"}

    def call(model: str, feed: Feed) -> Feed:
        inputs = []
        for name, array in feed.items():
            tensor = triton.InferInput(name, array.shape, datatypes[array.dtype.name])
            inputs.append(tensor.set_data_from_numpy(array))
        result = client.infer(model, inputs)
        names = [output.name for output in result.get_response().outputs]
        return {name: result.as_numpy(name) for name in names}

    return call


@pytest.fixture(scope="module")
def ids(card: ModelCard) -> Callable[..., NDArray[np.int64]]:
    tokenizer = Tokenizer.from_file(str(REPOSITORY / card.components.tokenizer))
    eos = tokenizer.encode("").ids[-1]
    tokenizer.enable_truncation(card.text.tokens)
    tokenizer.enable_padding(length=card.text.tokens, pad_id=eos)
    return lambda *prompts: np.array([tokenizer.encode(p).ids for p in prompts], np.int64)


def step_feed(rows: int, card: ModelCard, side: int = 16, seed: int = 0) -> Feed:
    """Any inputs of the denoiser, every row another."""
    rng = np.random.default_rng(seed)
    latents = (rows, card.latents.channels, side, side)
    return {
        "latents": rng.standard_normal(latents, np.float32),
        "denoised_prev": rng.standard_normal(latents, np.float32),
        "timestep": rng.uniform(0, 999, (rows, 1)).astype(np.float32),
        "text_embeddings": rng.standard_normal(
            (rows, 2, card.text.tokens, card.text.width), np.float32
        ),
        "guidance": rng.uniform(1, 3, (rows, 1)).astype(np.float32),
        "coefficients": rng.uniform(-1, 1, (rows, 6)).astype(np.float32),
    }


def row(feed: Feed, index: int) -> Feed:
    return {name: array[index : index + 1] for name, array in feed.items()}


def test_a_prompt_becomes_the_picture_it_asks_for(infer: Infer, card: ModelCard, ids):
    names = card.components
    prompts = ("a red circle on a blue background", "a large yellow square on a black background")
    rows = len(prompts)
    texts = infer(names.text_encoder, {"input_ids": ids(*prompts, "")})["text_embeddings"]
    assert texts.dtype == np.float32
    assert texts.shape == (rows + 1, card.text.tokens, card.text.width)

    latents = np.stack([noise(seed, 0, (card.latents.channels, 16, 16)) for seed in range(rows)])
    denoised = np.zeros_like(latents)
    way = plan(card.schedule, card.default_sampler, int(card.limits["steps"].default))
    latents *= np.float32(way.initial_scale)
    for timestep, coefficients in zip(way.timesteps, way.coefficients, strict=True):
        feed = {
            "latents": latents,
            "denoised_prev": denoised,
            "timestep": np.full((rows, 1), timestep, np.float32),
            "text_embeddings": np.stack([np.stack([texts[-1], text]) for text in texts[:-1]]),
            "guidance": np.full((rows, 1), card.limits["guidance"].default, np.float32),
            "coefficients": np.tile(coefficients, (rows, 1)),
        }
        out = infer(names.denoiser, feed)
        latents, denoised = out["next_latents"], out["denoised"]
        assert latents.shape == denoised.shape == (rows, card.latents.channels, 16, 16)
        assert np.isfinite(latents).all()

    images = infer(names.vae_decoder, {"latents": latents})["images"]

    assert (images.shape, images.dtype) == ((rows, 64, 64, 3), np.uint8)
    seen = [measure(image) for image in images]
    assert [s and (s.colour, s.shape, s.background) for s in seen] == [
        ("red", "circle", "blue"),
        ("yellow", "square", "black"),
    ]


def test_rows_of_a_batch_are_what_they_are_alone(infer: Infer, card: ModelCard, ids):
    rng = np.random.default_rng(1)
    feeds = {
        card.components.text_encoder: {"input_ids": ids("a red ring", "a blue cross", "", "x")},
        card.components.denoiser: step_feed(4, card),
        card.components.vae_decoder: {
            "latents": rng.standard_normal((4, card.latents.channels, 16, 16), np.float32)
        },
    }
    for model, feed in feeds.items():
        together = infer(model, feed)
        for index in range(4):
            for name, alone in infer(model, row(feed, index)).items():
                close = {"atol": 1} if alone.dtype == np.uint8 else {"rtol": 1e-4, "atol": 1e-4}
                np.testing.assert_allclose(
                    together[name][index : index + 1].astype(np.float32), alone, **close
                )


def test_other_sizes_run_without_loading_anything_else(infer: Infer, card: ModelCard):
    out = infer(card.components.denoiser, step_feed(1, card, side=24))
    images = infer(card.components.vae_decoder, {"latents": out["denoised"]})["images"]

    assert images.shape == (1, 96, 96, 3)


def test_concurrent_steps_share_runs(
    server: Triton, client: triton.InferenceServerClient, infer: Infer, card: ModelCard
):
    model, calls = card.components.denoiser, 32
    feed = step_feed(calls, card)

    def counts(at_least: int = 0) -> tuple[int, int]:
        """Rows and runs so far. Triton counts after it has answered: wait for that many rows."""
        deadline = time.monotonic() + 20
        while True:
            answer = client.get_inference_statistics(
                model, headers={ADMIN_HEADER: server.admin_key}
            )
            stats = answer.model_stats[0]
            if stats.inference_count >= at_least or time.monotonic() > deadline:
                return stats.inference_count, stats.execution_count
            time.sleep(0.02)

    first, _ = counts()
    expected = np.concatenate(
        [infer(model, row(feed, index))["next_latents"] for index in range(calls)]
    )
    before = counts(first + calls)
    with ThreadPoolExecutor(calls) as pool:
        answers = list(pool.map(lambda index: infer(model, row(feed, index)), range(calls)))
    after = counts(before[0] + calls)
    rows, runs = after[0] - before[0], after[1] - before[1]

    assert rows == calls
    assert runs <= calls / 2  # a step takes longer than sending all of the requests
    got = np.concatenate([answer["next_latents"] for answer in answers])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_bad_request_fails_alone(infer: Infer, card: ModelCard, ids):
    good, bad = ids("a red circle"), np.full((1, card.text.tokens), 10**6, np.int64)
    expected = infer(card.components.text_encoder, {"input_ids": good})["text_embeddings"]
    calls = [bad if index % 8 == 3 else good for index in range(64)]

    def outcome(input_ids: NDArray[np.int64]) -> NDArray | None:
        try:
            return infer(card.components.text_encoder, {"input_ids": input_ids})["text_embeddings"]
        except triton.InferenceServerException:
            return None

    with ThreadPoolExecutor(len(calls)) as pool:
        outcomes = list(pool.map(outcome, calls))

    assert [found is None for found in outcomes] == [call is bad for call in calls]
    for found in outcomes:
        if found is not None:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
