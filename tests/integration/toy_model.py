"""A toy checkpoint as a Triton repository: the three models in numpy, and a tokenizer of 5 words.

So the agent is tested against a real Triton without any export. Faults come by guidance, which
reaches the denoiser as it is: see FAULTS.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.support.cards import CARD

OUT_OF_MEMORY, CRASH, NOT_A_NUMBER, SLOW = 9.0, 9.25, 9.5, 9.75
FAULTS = {"memory": OUT_OF_MEMORY, "crash": CRASH, "nan": NOT_A_NUMBER, "slow": SLOW}

_MODEL = """
import os, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
{holding}
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        def get(name):
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
        try:
            outputs = {body}
        except MemoryError as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, v) for n, v in outputs.items()])

    def encode_text(self, ids):
        width = np.arange(1, 65, dtype=np.float32) / 64
        return {{"text_embeddings": (ids[:, :, None] * width).astype(np.float32)}}

    def step(self, latents, denoised_prev, timestep, text_embeddings, guidance, coefficients):
        if {crash} in guidance:
            os._exit(1)
        if {memory} in guidance:
            raise MemoryError("CUDA error: out of memory at region atelier-secret-7")
        time.sleep(0.05 if {slow} in guidance else 0.002)
        def wide(column):
            return column.reshape(-1, 1, 1, 1)
        s, p, q, a, b, c = (wide(coefficients[:, i]) for i in range(6))
        x = s * latents + wide(text_embeddings[:, 1, 1, 0])
        m = x / (1 + np.abs(x)) * wide(timestep[:, 0]) / 1000 * np.float32(0.5)
        denoised = p * latents + q * m
        after = a * latents + b * denoised + c * denoised_prev
        after[guidance[:, 0] == {nan}] = np.nan
        return {{"next_latents": after.astype(np.float32), "denoised": denoised.astype(np.float32)}}

    def decode(self, latents):
        large = latents[:, :3].repeat(4, 2).repeat(4, 3).transpose(0, 2, 3, 1)
        return {{"images": np.clip(large * 64 + 128, 0, 255).astype(np.uint8)}}
"""
_BODIES = {
    "text_encoder": "self.encode_text(get('input_ids'))",
    "denoiser": (
        "self.step(*map(get, ('latents', 'denoised_prev', 'timestep', 'text_embeddings',"
        " 'guidance', 'coefficients')))"
    ),
    "vae_decoder": "self.decode(get('latents'))",
}
_TENSORS = {
    "text_encoder": ("input_ids INT64 32", "text_embeddings FP32 32,64"),
    "denoiser": (
        "latents FP32 4,-1,-1; denoised_prev FP32 4,-1,-1; timestep FP32 1;"
        " text_embeddings FP32 2,32,64; guidance FP32 1; coefficients FP32 6",
        "next_latents FP32 4,-1,-1; denoised FP32 4,-1,-1",
    ),
    "vae_decoder": ("latents FP32 4,-1,-1", "images UINT8 -1,-1,3"),
}


# Holds memory of the fake driver (tests/support/fake_nvml), as a model holds a GPU's.
_MEMORY = """
    def initialize(self, args):
        import importlib.util, pathlib
        spec = importlib.util.spec_from_file_location("control", os.environ["FAKE_NVML_CONTROL"])
        self.control = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.control)
        self.gpu = int(os.environ["FAKE_GPU"])
        self.driver = self.control.FakeDriver(pathlib.Path(os.environ["FAKE_NVML"]))
        self.driver.hold(self.gpu, self.control.tritonserver(), BYTES)

    def finalize(self):
        kept = self.driver.gpus[self.gpu].leak
        self.driver.hold(self.gpu, self.control.tritonserver(), kept - BYTES)
"""


def write_repository(
    folder: Path, card: str = CARD, name: str = "toy", holds: Mapping[str, int] | None = None
) -> None:
    """Lay out the toy model's repository, or add another like it.

    Args:
        holds: bytes of the fake driver's memory that each part takes.
    """
    (folder / "backends").mkdir(parents=True, exist_ok=True)  # none of its own: they are Python
    (folder / f"{name}.toml").write_text(card)
    words = {"<bos>": 0, "<eos>": 1, "red": 2, "circle": 3, "blue": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("<eos>", 1), ("<bos>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    for part, body in _BODIES.items():
        version = folder / f"{name}__{part}" / "1"
        version.mkdir(parents=True)
        holding = _MEMORY.replace("BYTES", str(holds[part])) if holds else ""
        (version / "model.py").write_text(_MODEL.format(body=body, holding=holding, **FAULTS))
        given, made = _TENSORS[part]
        (version.parent / "config.pbtxt").write_text(
            f'name: "{name}__{part}"\nbackend: "python"\nmax_batch_size: 16\n'
            f"input [{_tensors(given)}]\noutput [{_tensors(made)}]\n"
            "dynamic_batching {}\ninstance_group [{count: 1, kind: KIND_CPU}]\n"
        )


def _tensors(text: str) -> str:
    lines = (tensor.split() for tensor in text.split(";"))
    return ", ".join(f'{{name: "{n}", data_type: TYPE_{t}, dims: [{d}]}}' for n, t, d in lines)
