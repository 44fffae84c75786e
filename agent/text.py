"""Prompts to token ids, as the checkpoint's own tokenizers make them, without transformers.

The tokenizer's file (tokenizer.json) knows how to split and where bos and eos go (CLIP) or eos
alone (T5). What it is padded with stands beside it in tokenizer_config.json: eos for Stable
Diffusion 1, "!" for 2. A model with two tokenizers has its prompts' ids one behind the other.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from atelier.catalog import ModelCard


class PromptIds:
    """The ids of a model's prompts, by one tokenizer or by two."""

    def __init__(self, repository: Path, card: ModelCard) -> None:
        """Read the tokenizers that a card names.

        Raises:
            ValueError: one of them cannot be read.
        """
        first, second = card.components.tokenizer, card.components.second_tokenizer
        self._tokenizers = [PromptTokenizer(repository / first, card.text.first_ids)]
        if second:
            self._tokenizers.append(PromptTokenizer(repository / second, card.text.second_ids))

    def encode(self, *texts: str) -> NDArray[np.int64]:
        """Ids of the texts: int64 (len(texts), ids)."""
        parts = [tokenizer.encode(*texts) for tokenizer in self._tokenizers]
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


class PromptTokenizer:
    """Makes ids of a fixed length: text, eos, padding, with bos in front where the tokenizer has
    one; a text too long is cut before eos."""

    def __init__(self, path: Path, tokens: int) -> None:
        """Read the tokenizer at `path`.

        Raises:
            ValueError: it cannot be read, or it does not put bos and eos around a text.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path}: not a tokenizer: {error}") from error
        self._tokenizer.no_padding()  # a saved tokenizer may bring its own
        self._tokenizer.no_truncation()
        empty = self._tokenizer.encode("").ids
        if len(empty) not in (1, 2):
            raise ValueError(
                f"{path}: an empty text must be eos, or bos and eos, not {len(empty)} ids"
            )
        self._tokens = tokens
        self._pad = _pad_id(self._tokenizer, path.with_name("tokenizer_config.json"), empty[-1])
        self._tokenizer.enable_truncation(max_length=tokens)

    def encode(self, *texts: str) -> NDArray[np.int64]:
        """Ids of the texts: int64 (len(texts), tokens)."""
        ids = np.full((len(texts), self._tokens), self._pad, dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            found = self._tokenizer.encode(text).ids
            row[: len(found)] = found
        return ids


def _pad_id(tokenizer: Tokenizer, config: Path, eos: int) -> int:
    """The padding's id; eos where nothing else is said."""
    if not config.is_file():
        return eos
    token = json.loads(config.read_text()).get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    return eos if found is None else int(found)
