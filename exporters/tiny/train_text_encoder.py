"""Stage 1: the text encoder, taught to know its words before anything is drawn.

Linear heads read each attribute (shape, two colours, position, size) from the state of one end
token, chosen at random among the real one and the padding; the heads are thrown away and the
encoder is frozen.
Trained together with the UNet instead, position stayed random after 25,000 samples.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTokenizer

from exporters.tiny.dataset import training_scenes
from exporters.tiny.models import PROMPT_LENGTH, TEXT_WIDTH, build_text_encoder
from exporters.tiny.progress import Progress, Report
from exporters.tiny.scenes import PALETTE, POSITIONS, SHAPES, SIZES, prompt_of
from exporters.tiny.tokenizer import PICTURE_WORDS, build_tokenizer

STEPS = 600
BATCH = 96
LEARNING_RATE = 2e-3


@dataclass(frozen=True, slots=True)
class Grammar:
    """What there is to say: its words, what they stand for, and how a thing is said.

    Attributes:
        attributes: for each field of a thing, the values that it may have.
        prompt_of: says a thing in one of many wordings.
    """

    words: Iterable[str]
    attributes: Mapping[str, Sequence[str]]
    things: Sequence[Any]
    prompt_of: Callable[[Any, np.random.Generator], str]


def picture_grammar() -> Grammar:
    """That of tiny-image's training."""
    attributes = {
        "shape": list(SHAPES),
        "colour": list(PALETTE),
        "background": list(PALETTE),
        "position": list(POSITIONS),
        "size": list(SIZES),
    }
    return Grammar(PICTURE_WORDS, attributes, training_scenes(), prompt_of)


def train_text_encoder(
    out: Path, report: Report, grammar: Grammar, steps: int = STEPS, seed: int = 1
) -> dict[str, float]:
    """Train and save `out/text_encoder` and `out/tokenizer`; returns the stage's figures."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = build_tokenizer(grammar.words)
    encoder = build_text_encoder(tokenizer)
    attributes, things = grammar.attributes, grammar.things
    heads = nn.ModuleDict({name: nn.Linear(TEXT_WIDTH, len(v)) for name, v in attributes.items()})
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    progress = Progress("text encoder", steps, report)
    right = torch.zeros(())
    for number in range(1, steps + 1):
        batch = [things[index] for index in rng.integers(len(things), size=BATCH)]
        tokens = tokenize(tokenizer, [grammar.prompt_of(thing, rng) for thing in batch])
        states = encoder(tokens).last_hidden_state
        state = states[torch.arange(BATCH), _random_ends(tokens, tokenizer.eos_token_id)]
        scores = {name: head(state) for name, head in heads.items()}
        answers = {
            name: torch.tensor([values.index(getattr(thing, name)) for thing in batch])
            for name, values in attributes.items()
        }
        losses = [functional.cross_entropy(scores[name], answers[name]) for name in attributes]
        loss = torch.stack(losses).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        progress.step(number, loss.item())
        hits = torch.stack([scores[name].argmax(-1) == answers[name] for name in attributes])
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
