"""INT8 models of tiny-image: like their source where it matters, refused where not."""

from pathlib import Path

import pytest

onnx = pytest.importorskip("onnx", reason="the export extra is not installed")

import numpy as np  # noqa: E402

from benchmarks.chain import Chain, onnx_path  # noqa: E402
from exporters.gate import INT8_GATE  # noqa: E402
from exporters.int8 import Recorder, quantize  # noqa: E402
from exporters.int8_gate import Int8Error, Likeness, compare, require  # noqa: E402
from exporters.measure import open_session  # noqa: E402

REPOSITORY = Path("triton_repo")
CALIBRATION = ("a red circle on a blue background", "a small white cross at the left, on black")
OTHERS = ("a large green square on white", "a yellow triangle at the top, on purple")
STEPS = 8


def draw(chain: Chain, prompts, seed: int):
    return chain.draw(prompts, seed=seed, steps=STEPS, guidance=1.5, pixels=64)


@pytest.fixture(scope="module")
def chain():
    return Chain(REPOSITORY, "tiny_image.toml")


def record(chain: Chain, prompts, seed: int):
    """What the denoiser and the decoder meet on the way to some pictures."""
    plain = chain.denoiser, chain.vae_decoder
    denoiser, decoder = chain.denoiser, chain.vae_decoder = tuple(map(Recorder, plain))
    draw(chain, prompts, seed)
    chain.denoiser, chain.vae_decoder = plain
    return denoiser.feeds, decoder.feeds


@pytest.fixture(scope="module")
def feeds(chain):
    return record(chain, CALIBRATION, seed=1)


@pytest.fixture(scope="module")
def denoiser(chain, feeds, tmp_path_factory):
    target = tmp_path_factory.mktemp("int8") / "model.onnx"
    source = onnx_path(REPOSITORY, chain.card.components.denoiser)
    quantize(source, target, feeds[0])
    return source, target


@pytest.fixture(scope="module")
def decoder(chain, feeds, tmp_path_factory):
    target = tmp_path_factory.mktemp("int8") / "model.onnx"
    source = onnx_path(REPOSITORY, chain.card.components.vae_decoder)
    quantize(source, target, feeds[1])
    return source, target


def test_a_trajectory_is_recorded_step_by_step(feeds):
    denoiser, decoder = feeds

    timesteps = [float(feed["timestep"][0, 0]) for feed in denoiser]
    assert len(timesteps) == STEPS
    assert timesteps == sorted(timesteps, reverse=True)
    assert [feed["latents"].shape for feed in decoder] == [(2, 4, 16, 16)]


def test_on_generations_not_calibrated_on_both_pass_the_gate(chain, denoiser, decoder):
    denoiser_feeds, decoder_feeds = record(chain, OTHERS, seed=2)

    found = compare(*denoiser, denoiser_feeds) + compare(*decoder, decoder_feeds)

    require(found)
    by_output = {likeness.output: likeness for likeness in found}
    assert by_output.keys() == {"next_latents", "denoised", "images"}
    assert 0 < by_output["denoised"].relative_l2 < INT8_GATE.max_relative_l2
    assert 0.995 < by_output["denoised"].cosine < 1
    assert by_output["images"].psnr_db > 35


def test_whole_pictures_are_like_those_of_single_precision(chain, denoiser, decoder):
    expected = draw(chain, OTHERS, seed=3)
    quantized = Chain(REPOSITORY, "tiny_image.toml")
    quantized.denoiser = open_session(denoiser[1])
    quantized.vae_decoder = open_session(decoder[1])

    got = draw(quantized, OTHERS, seed=3)

    errors = np.mean((got.astype(float) - expected) ** 2, axis=(1, 2, 3))
    assert (10 * np.log10(255**2 / errors) > INT8_GATE.min_psnr_db).all()


def test_weights_are_signed_bytes_with_a_scale_for_each_channel(denoiser):
    source, target = denoiser
    model = onnx.load(target)
    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    }
    scales = {
        node.input[0]: node.input[1]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    lengths = {tensor.name: tensor.dims for tensor in model.graph.initializer}

    assert len(weights) > 100
    assert scales.keys() == weights.keys()
    assert all(
        list(lengths[scale]) in ([weights[name].dims[0]], [weights[name].dims[-1]])
        for name, scale in scales.items()
    )
    assert target.stat().st_size < 0.65 * source.stat().st_size  # whose weights are halves


def test_attention_and_what_products_give_stay_as_they_were(denoiser):
    model = onnx.load(denoiser[1])
    quantized = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    dequantized = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    between_activations = [node for node in products if not set(node.input) & dequantized]

    assert len(between_activations) == 40  # 2 for each of 20 attentions
    assert {opset.domain for opset in model.opset_import} <= {"", "com.microsoft"}
    assert any(node.output[0] not in quantized for node in products)


def test_calibrated_on_what_no_generation_meets_it_is_refused(chain, feeds, tmp_path):
    source = onnx_path(REPOSITORY, chain.card.components.vae_decoder)
    faint = [{"latents": feed["latents"] * np.float32(0.01)} for feed in feeds[1]]
    quantize(source, tmp_path / "model.onnx", faint)

    with pytest.raises(Int8Error, match=r"images: PSNR .* keep --precision fp16"):
        require(compare(source, tmp_path / "model.onnx", feeds[1]))


def test_without_a_generation_there_is_nothing_to_calibrate_on(tmp_path):
    with pytest.raises(ValueError, match=r"model\.onnx: nothing to calibrate on"):
        quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", [])


@pytest.mark.parametrize(
    ("likeness", "holds"),
    [
        (Likeness("x", cosine=1.0, relative_l2=0.1), True),
        (Likeness("x", cosine=1.0, relative_l2=0.11), False),
        (Likeness("x", cosine=np.nan, relative_l2=np.nan), False),
        (Likeness("x", psnr_db=30.0), True),
        (Likeness("x", psnr_db=np.inf), True),
        (Likeness("x", psnr_db=29.9), False),
        (Likeness("x", psnr_db=np.nan), False),
    ],
)
def test_the_gate(likeness: Likeness, holds: bool):
    assert likeness.holds(INT8_GATE) is holds


def test_weights_past_a_protobufs_size_lie_beside_the_file(
    chain, feeds, decoder, tmp_path, monkeypatch
):
    monkeypatch.setattr("exporters.int8.MAX_EMBEDDED_BYTES", 0)

    quantize(decoder[0], tmp_path / "model.onnx", feeds[1])

    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    (likeness,) = compare(decoder[1], tmp_path / "model.onnx", feeds[1])
    assert likeness.psnr_db == np.inf
