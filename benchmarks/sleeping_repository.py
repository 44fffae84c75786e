"""A Triton model repository whose models only sleep (sleeping_model.py), with a card for each.

So everything of the house is real but the arithmetic: Triton, loads, memory by declaration, steps
that take what a profile says. A load takes the card's seconds from the moment its first part's
process is started, as long as the machine starts processes faster than that.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

MODEL = Path(__file__).with_name("sleeping_model.py")
SHAPE = "64x64"
TOKENS, WIDTH, CHANNELS, DOWNSCALE = 4, 4, 4, 8


@dataclass(frozen=True)
class Sleeper:
    """What one model costs; a step of n rows takes step_a + step_c * n seconds."""

    name: str
    resident_bytes: int
    activation_bytes: int  # a row
    load_seconds: float
    step_a: float
    step_c: float
    batch_cap: int

    def card(self) -> str:
        """Its card. A decode takes step_c a picture, which is what the scheduler takes it for."""
        step = [[n, round(self.step_a + self.step_c * n, 6)] for n in (1, self.batch_cap)]
        return _CARD.format(me=self, step=step)


def write_repository(folder: Path, sleepers: list[Sleeper]) -> None:
    """Lay it out in an empty or missing folder."""
    (folder / "backends").mkdir(parents=True)  # none of its own: the models are Python
    _tokenizer().save(str(folder / "tokenizer.json"))
    for sleeper in sleepers:
        (folder / f"{sleeper.name}.toml").write_text(sleeper.card())
        for part, (given, made) in _TENSORS.items():
            version = folder / f"{sleeper.name}__{part}" / "1"
            version.mkdir(parents=True)
            shutil.copy(MODEL, version / "model.py")
            told = {
                "part": part, "card": sleeper.name, "load": sleeper.load_seconds,
                "step_a": sleeper.step_a, "step_c": sleeper.step_c, "decode": sleeper.step_c,
            }  # fmt: skip
            (version.parent / "config.pbtxt").write_text(
                f'name: "{version.parent.name}"\nbackend: "python"\n'
                f"max_batch_size: {sleeper.batch_cap}\n"
                f"input [{_tensors(given)}]\noutput [{_tensors(made)}]\n"
                "instance_group [{count: 1, kind: KIND_CPU}]\n"
                + "".join(
                    f'parameters {{key: "{key}" value: {{string_value: "{value}"}}}}\n'
                    for key, value in told.items()
                )
            )


def _tokenizer() -> Tokenizer:
    """Three words, for prompts that nobody looks at."""
    words = {"<bos>": 0, "<eos>": 1, "sleep": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("<eos>", 1), ("<bos>", 0))
    return tokenizer


def _tensors(text: str) -> str:
    lines = (tensor.split() for tensor in text.split(";"))
    return ", ".join(f'{{name: "{n}", data_type: TYPE_{t}, dims: [{d}]}}' for n, t, d in lines)


_TENSORS = {
    "text_encoder": (f"input_ids INT64 {TOKENS}", f"text_embeddings FP32 {TOKENS},{WIDTH}"),
    "denoiser": (
        f"latents FP32 {CHANNELS},-1,-1; denoised_prev FP32 {CHANNELS},-1,-1; timestep FP32 1;"
        f" text_embeddings FP32 2,{TOKENS},{WIDTH}; guidance FP32 1; coefficients FP32 6",
        f"next_latents FP32 {CHANNELS},-1,-1; denoised FP32 {CHANNELS},-1,-1",
    ),
    "vae_decoder": (f"latents FP32 {CHANNELS},-1,-1", "images UINT8 -1,-1,3"),
}

_CARD = """\
name = "{me.name}"
description = "Sleeps as long as a profile says."
kind = "image"
family = "sd"
version = "sha256:0"
engine = "sleep"
samplers = ["ddim", "euler"]
default_sampler = "ddim"
max_rows = {me.batch_cap}
resident_bytes = {me.resident_bytes}
load_seconds = {me.load_seconds}

[components]
text_encoder = "{me.name}__text_encoder"
denoiser = "{me.name}__denoiser"
vae_decoder = "{me.name}__vae_decoder"
tokenizer = "tokenizer.json"

[schedule]
train_timesteps = 1000
beta_start = 0.00085
beta_end = 0.012
beta_schedule = "scaled_linear"
prediction = "v_prediction"
zero_terminal_snr = true
timestep_spacing = "trailing"
set_alpha_to_one = true

[latents]
channels = 4
downscale = 8

[text]
tokens = 4
width = 4

[limits]
width = {{minimum = 64, maximum = 64, default = 64, multiple_of = 8, unit = "pixels"}}
height = {{minimum = 64, maximum = 64, default = 64, multiple_of = 8, unit = "pixels"}}
steps = {{minimum = 1, maximum = 100, default = 20}}
guidance = {{minimum = 1.0, maximum = 10.0, default = 1.0}}
count = {{minimum = 1, maximum = 4, default = 1}}

[profiles.64x64]
activation_bytes_per_row = {me.activation_bytes}
batch_cap = {me.batch_cap}
step_seconds = {step}
"""
