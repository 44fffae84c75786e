"""The committed tiny-video does what prompts say, also of combinations that it never saw.

The measure over 200 prompts is `make obey-video`; this is a short look that fails if a part of the
checkpoint, the pipeline or the checker no longer fits the others.
"""

from pathlib import Path

import torch

from exporters.tiny.video_checkpoint import load_video_pipeline
from exporters.tiny.video_obey import choose, contact_sheet, run, whole_claims
from exporters.tiny.video_scenes import FRAMES, MOTIONS

CHECKPOINT = Path(__file__).parents[3] / "checkpoints" / "tiny-video"


def test_prompts_come_out_as_asked_in_every_motion() -> None:
    torch.set_num_threads(1)
    prompts = choose(20, seed=11)
    assert {clip.motion for _, clip in prompts} == set(MOTIONS)
    assert sum(clip.held_out for _, clip in prompts) == 10
    drawn = list(run(load_video_pipeline(CHECKPOINT), prompts, steps=10, guidance=1.5))
    trials = [trial for trial, _ in drawn]
    wrong = [(trial.prompt, trial.found) for trial in trials if not trial.all_right]
    assert len(wrong) <= 1, wrong
    assert sum(right for _, right in drawn) >= 0.9 * 20 * FRAMES
    together, frames = whole_claims(trials, [right for _, right in drawn])
    assert together.value == 1 - len(wrong) / 20
    assert frames.holds
    assert contact_sheet(trials).size == (1084, 900)
