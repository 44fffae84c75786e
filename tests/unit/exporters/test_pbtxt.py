"""Each config.pbtxt, as Triton's own message reads it."""

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from exporters.pbtxt import render
from exporters.spec import ExportSpec

SPEC = ExportSpec("tiny-image", tokens=32, width=64, channels=4, downscale=4)


def parse(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def test_the_denoiser_is_what_the_agent_was_written_against():
    config = parse(render(SPEC.denoiser))

    assert config.name == "tiny_image__denoiser"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 16
    assert {i.name: (i.data_type, list(i.dims)) for i in config.input} == {
        "latents": (pb.TYPE_FP32, [4, -1, -1]),
        "denoised_prev": (pb.TYPE_FP32, [4, -1, -1]),
        "timestep": (pb.TYPE_FP32, [1]),
        "text_embeddings": (pb.TYPE_FP32, [2, 32, 64]),
        "guidance": (pb.TYPE_FP32, [1]),
        "coefficients": (pb.TYPE_FP32, [6]),
    }
    assert {o.name: (o.data_type, list(o.dims)) for o in config.output} == {
        "next_latents": (pb.TYPE_FP32, [4, -1, -1]),
        "denoised": (pb.TYPE_FP32, [4, -1, -1]),
    }


def test_the_text_encoder_takes_ids_and_the_decoder_gives_bytes():
    encoder, decoder = parse(render(SPEC.text_encoder)), parse(render(SPEC.vae_decoder))

    assert (encoder.input[0].data_type, list(encoder.input[0].dims)) == (pb.TYPE_INT64, [32])
    assert (decoder.output[0].data_type, list(decoder.output[0].dims)) == (
        pb.TYPE_UINT8,
        [-1, -1, 3],
    )


def test_batches_form_without_waiting_on_one_instance():
    for component in SPEC.components:
        config = parse(render(component))

        assert config.HasField("dynamic_batching")
        assert config.dynamic_batching.max_queue_delay_microseconds == 0
        assert [(g.count, g.kind) for g in config.instance_group] == [
            (1, pb.ModelInstanceGroup.KIND_AUTO)
        ]


def test_names_are_identifiers_whatever_the_model_is_called():
    spec = ExportSpec("my-model-2", tokens=77, width=768, channels=4, downscale=8)

    assert spec.card_file == "my_model_2.toml"
    assert spec.tokenizer_file == "my_model_2__text_encoder/tokenizer.json"
    assert all(component.name.isidentifier() for component in spec.components)
