"""Model cards for tests: the real parser, small numbers."""

from __future__ import annotations

from dataclasses import replace

from atelier.catalog import ModelCard, Profile

CARD = """
name = "toy"
description = "A card for tests."
kind = "image"
family = "sd"
version = "sha256:0"
engine = "onnxruntime"
samplers = ["ddim", "euler"]
default_sampler = "ddim"
max_rows = 16
resident_bytes = 100
load_seconds = 2.0

[components]
text_encoder = "toy__text_encoder"
denoiser = "toy__denoiser"
vae_decoder = "toy__vae_decoder"
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
downscale = 4

[text]
tokens = 32
width = 64

[limits.width]
minimum = 64
maximum = 128
default = 64
multiple_of = 8
unit = "pixels"
[limits.height]
minimum = 64
maximum = 128
default = 64
multiple_of = 8
unit = "pixels"
[limits.steps]
minimum = 1
maximum = 100
default = 20
[limits.guidance]
minimum = 1.0
maximum = 10.0
default = 1.5
[limits.count]
minimum = 1
maximum = 8
default = 1

[presets.draft]
steps = 8
sampler = "euler"

[profiles.64x64]
activation_bytes_per_row = 10
batch_cap = 4
step_seconds = [[1, 0.01], [4, 0.03]]
"""


def toy_card(name: str = "toy", **changes: object) -> ModelCard:
    """The card above under another name, with fields replaced."""
    return replace(ModelCard.parse(CARD), name=name, **changes)  # type: ignore[arg-type]


def profile(*, activation_bytes: int, batch_cap: int) -> dict[str, Profile]:
    """The profile of the one shape that tests use."""
    return {"64x64": Profile(activation_bytes, batch_cap, ((1, 0.01),))}


def video_card(**changes: object) -> ModelCard:
    """As the toy card, of a model that makes clips of 8 frames, side by side in the channels."""
    limits = '[limits.frames]\nminimum = 8\nmaximum = 8\ndefault = 8\nunit = "frames"\n'
    limits += "[limits.frames_per_second]\nminimum = 1\nmaximum = 60\ndefault = 8\n"
    text = CARD.replace('kind = "image"', 'kind = "video"').replace(
        "channels = 4\n", "channels = 32\noutput_frames = 8\n"
    )
    head, _, tail = text.partition("[limits.count]")
    text = head + limits + tail[tail.index("[presets") :]
    return replace(ModelCard.parse(text.replace("64x64", "64x64x8")), name="clips", **changes)  # type: ignore[arg-type]
