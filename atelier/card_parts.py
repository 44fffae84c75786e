"""What a model card is made of: its components, formats, noise schedule and costs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Preset:
    """A named set of parameter values."""

    name: str
    values: Mapping[str, float]
    sampler: str = ""


@dataclass(frozen=True)
class Safety:
    """The Triton model that looks at pictures before anybody else does.

    It takes uint8 (N, H, W, 3) and gives float32 (N) or (N, 1); a picture whose score is above the
    threshold is withheld.
    """

    model: str
    input: str = "images"
    output: str = "unsafe"
    threshold: float = 0.5


@dataclass(frozen=True)
class Components:
    """Triton models of a checkpoint, and its tokenizers' files relative to the repository.

    Without a `vae_encoder` no picture can be the start. A prompt's ids are those of `tokenizer`
    and behind them, where there is one, those of `second_tokenizer`. With a `safety` checker,
    which comes and goes with the rest, nothing is published that it has not passed.
    """

    text_encoder: str
    denoiser: str
    vae_decoder: str
    tokenizer: str
    vae_encoder: str = ""
    second_tokenizer: str = ""
    safety: Safety | None = None

    @property
    def triton_models(self) -> tuple[str, ...]:
        checker = self.safety.model if self.safety else ""
        named = (self.text_encoder, self.denoiser, self.vae_decoder, self.vae_encoder, checker)
        return tuple(name for name in named if name)


@dataclass(frozen=True)
class NoiseSchedule:
    """How the model was trained to see noise (diffusers' names).

    A model of flow matching has a `shift` and none of the betas.
    """

    train_timesteps: int
    prediction: str  # v_prediction | epsilon | sample | flow
    beta_start: float = 0.0
    beta_end: float = 0.0
    beta_schedule: str = ""
    zero_terminal_snr: bool = False
    timestep_spacing: str = "leading"  # trailing | leading | linspace
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    original_steps: int = 50  # of the teacher, which a consistency model chooses among
    shift: float = 1.0


@dataclass(frozen=True)
class LatentFormat:
    """Latents have shape (channels, height // downscale, width // downscale), or with an axis of
    time (channels, frames, ...) where `frames` is not 0.

    output_frames: pictures that one row is decoded to; 0: a single picture, and no axis of time.
    masking: what the denoiser takes beside the latents. "": nothing. "concat": `mask`, 1 where
        something new is wanted, and in `known` the latents of the picture with the masked part
        grey; for text to image, a mask of ones and a grey picture.
    first_frame: whether a clip can begin with a given picture: one whose frames lie in the
        channels, and that was measured to go on from there as its text says.
    """

    channels: int
    downscale: int
    frames: int = 0
    output_frames: int = 0
    masking: str = ""
    first_frame: bool = False

    def shape(self, width: int, height: int) -> tuple[int, ...]:
        """Of one row's latents, for pixels of this width and height."""
        time = (self.frames,) if self.frames else ()
        return (self.channels, *time, height // self.downscale, width // self.downscale)

    def pixel_shape(self, width: int, height: int) -> tuple[int, ...]:
        """Of what one row is decoded to: (H, W, 3), or (T, H, W, 3) of a video."""
        time = (self.output_frames,) if self.output_frames else ()
        return (*time, height, width, 3)


@dataclass(frozen=True)
class TextFormat:
    """Embeddings have shape (tokens, width), and only the model's own graphs look inside.

    ids: of a prompt by its first tokenizer; 0: as many as `tokens`.
    second_ids: by the second tokenizer, behind them.
    """

    tokens: int
    width: int
    ids: int = 0
    second_ids: int = 0

    @property
    def first_ids(self) -> int:
        return self.ids or self.tokens


@dataclass(frozen=True)
class LatentPreview:
    """Latents to small pictures without a decoder, for progress: a linear map, fitted at export.

    A pixel in 0..1 is bias + the sum over channels of latent * factors[channel], to be clipped; one
    for each place of the latents, which are those that go into the VAE decoder (or the denoiser's
    guess of them, `denoised`). Where a clip's frames lie in the channels (latents.frames is 0 and
    output_frames is not), `factors` are of one frame: channel = frame * len(factors) + c.

    factors: (C, 3): what a channel adds to red, green and blue.
    psnr: dB of previews against pictures averaged down, of prompts that were not fitted to.
    """

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float]
    psnr: float = 0.0


@dataclass(frozen=True)
class Profile:
    """What one shape costs on the device that it was measured on."""

    activation_bytes_per_row: int
    batch_cap: int
    step_seconds: tuple[tuple[int, float], ...]  # (rows, seconds of one step)

    def seconds_of_step(self, rows: int) -> float:
        """Step time at `rows`: linear between the measured points, flat outside of them."""
        points = self.step_seconds
        if rows <= points[0][0]:
            return points[0][1]
        for (low, a), (high, b) in pairwise(points):
            if rows <= high:
                return a + (b - a) * (rows - low) / (high - low)
        return points[-1][1]
