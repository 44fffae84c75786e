"""Teaching a denoiser: it learns, and a run that was stopped goes on where it had last saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from exporters.tiny import denoising
from exporters.tiny.denoising import Lessons, State, figure_weights, open_state, teach
from exporters.tiny.models import TEXT_WIDTH, build_scheduler, build_text_encoder
from exporters.tiny.progress import Progress
from exporters.tiny.scenes import coverage
from exporters.tiny.tokenizer import build_tokenizer

STEPS = 40


def small_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )


def take(
    state: State, resume: Path, lines: list[str], prediction: str, stop_at: int = STEPS + 1
) -> UNet2DConditionModel:
    """Teach two flat pictures with opposite names; `stop_at` is the step that fails."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer).eval().requires_grad_(False)
    asked = [state.step * denoising.BATCH]

    def caption(index: int, rng: np.random.Generator) -> str:
        asked[0] += 1
        if asked[0] > (stop_at - 1) * denoising.BATCH:
            raise KeyboardInterrupt
        return ("red", "blue")[index]

    lessons = Lessons(
        latents=torch.stack([torch.ones(2, 4, 4), -torch.ones(2, 4, 4)]),
        weights=lambda _: torch.ones(1, 4, 4),
        caption=caption,
    )
    scheduler = build_scheduler(prediction)
    progress = Progress("unet", STEPS, lines.append, first_step=state.step)
    return teach(state, lessons, tokenizer, encoder, scheduler, resume, progress, seed=1)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_loss_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prediction: str) -> None:
    losses = []
    step = Progress.step

    def note(self: Progress, number: int, loss: float) -> None:
        losses.append(loss)
        step(self, number, loss)

    monkeypatch.setattr(Progress, "step", note)
    state = open_state(small_unet(), tmp_path / "unet.pt", STEPS, print)
    take(state, tmp_path / "unet.pt", [], prediction)
    assert state.step == STEPS == len(losses)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_stopped_run_goes_on_from_its_last_saved_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoising, "SAVE_EVERY", 10)
    resume, lines = tmp_path / "unet.pt", []
    first = open_state(small_unet(), resume, STEPS, lines.append)
    with pytest.raises(KeyboardInterrupt):
        take(first, resume, lines, "sample", stop_at=25)
    assert lines == []

    second = open_state(small_unet(), resume, STEPS, lines.append)
    assert lines == ["unet goes on from step 20"]
    assert second.step == 20
    assert second.schedule.last_epoch == 20
    average = take(second, resume, lines, "sample")
    assert average is second.average
    assert second.step == STEPS
    assert second.cpu_seconds > 0
    assert lines[-1].startswith("unet 40/40 loss")


def test_weight_is_half_on_the_figure_however_small() -> None:
    for radius in (0.14, 0.25):
        weights = figure_weights(coverage("circle", 0.5, 0.5, radius, 16))
        assert weights.shape == (1, 16, 16)
        assert weights.mean().item() == pytest.approx(1)
        on = weights > 0.5
        extra = (weights - 0.5)[on].sum() / weights.sum()
        assert extra.item() == pytest.approx(0.5)
