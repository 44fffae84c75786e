"""Stage 1: the text encoder, taught to know its words before anything is drawn.

Linear heads read shape, two colours, position and size from the state of one end token, chosen at
random among the real one and the padding; the heads are thrown away and the encoder is frozen.
Trained together with the UNet instead, position stayed random after 25,000 samples.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from exporters.tiny.dataset import training_scenes
from exporters.tiny.models import PROMPT_LENGTH, TEXT_WIDTH, build_text_encoder
from exporters.tiny.progress import Progress, Report
from exporters.tiny.scenes import PALETTE, POSITIONS, SHAPES, SIZES, Scene, prompt_of
from exporters.tiny.tokenizer import build_tokenizer

STEPS = 600
BATCH = 96
LEARNING_RATE = 2e-3
ATTRIBUTES = {
    "shape": list(SHAPES),
    "colour": list(PALETTE),
    "background": list(PALETTE),
    "position": list(POSITIONS),
    "size": list(SIZES),
}


def train_text_encoder(
    out: Path, report: Report, steps: int = STEPS, seed: int = 1
) -> dict[str, float]:
    """Train and save `out/text_encoder` and `out/tokenizer`; returns the stage's figures."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(tokenizer)
    heads = nn.ModuleDict({name: nn.Linear(TEXT_WIDTH, len(v)) for name, v in ATTRIBUTES.items()})
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    scenes = training_scenes()
    progress = Progress("text encoder", steps, report)
    right = torch.zeros(())
    for number in range(1, steps + 1):
        batch = [scenes[index] for index in rng.integers(len(scenes), size=BATCH)]
        tokens = tokenize(tokenizer, [prompt_of(scene, rng) for scene in batch])
        states = encoder(tokens).last_hidden_state
        state = states[torch.arange(BATCH), _random_ends(tokens, tokenizer.eos_token_id)]
        scores = {name: head(state) for name, head in heads.items()}
        answers = {name: _labels(batch, name) for name in ATTRIBUTES}
        losses = [functional.cross_entropy(scores[name], answers[name]) for name in ATTRIBUTES]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        progress.step(number, loss.item())
        hits = torch.stack([scores[name].argmax(-1) == answers[name] for name in ATTRIBUTES])
        right = 0.95 * right + 0.05 * hits.all(0).float().mean()
    encoder.eval().half().save_pretrained(out / "text_encoder")
    tokenizer.save_pretrained(out / "tokenizer")
    return {"cpu_seconds": round(progress.cpu_seconds, 1), "separable": round(right.item(), 4)}


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token numbers of prompts, cut or padded: int64 (B, 32)."""
    encoded = tokenizer(
        prompts,
        padding="max_length",
        truncation=True,
        max_length=PROMPT_LENGTH,
        return_tensors="pt",
    )
    tokens: Tensor = encoded.input_ids
    return tokens


def _random_ends(tokens: Tensor, end: int) -> Tensor:
    """For each prompt the place of one of its end tokens: int64 (B,)."""
    return torch.multinomial((tokens == end).float(), 1).squeeze(1)


def _labels(scenes: list[Scene], attribute: str) -> Tensor:
    return torch.tensor([ATTRIBUTES[attribute].index(getattr(s, attribute)) for s in scenes])
