"""A checkpoint's tokenizers: is the vocabulary there, and the files that the agent reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError
from exporters.spec import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE


def require_vocabulary(folder: Path, names: Mapping[str, str]) -> None:
    """Make sure that a tokenizer's folder says what the words are.

    Where nothing does, transformers makes up a vocabulary without words and says nothing. Parity
    cannot see it: the reference would draw from the same.

    Args:
        names: of the files that hold it, by kind (transformers' `vocab_files_names`). The
            tokenizer_file is enough alone, and so are all the others together.

    Raises:
        CheckpointError: it is not there; names the file.
    """
    whole = names.get("tokenizer_file", TOKENIZER_FILE)
    split = [name for kind, name in names.items() if kind != "tokenizer_file"]
    if (folder / whole).is_file() or (split and all((folder / name).is_file() for name in split)):
        return
    instead = f", and {' and '.join(split)} would do instead" if split else ""
    raise CheckpointError(f"{folder / whole}: missing: it holds the vocabulary{instead}")


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write tokenizer.json, and what it pads with beside it in tokenizer_config.json.

    The file says how to split and where begin and end go; length and padding are the reader's,
    as in every published checkpoint.
    """
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / TOKENIZER_FILE))
    (folder / TOKENIZER_CONFIG_FILE).write_text(
        json.dumps({"pad_token": tokenizer.pad_token}) + "\n"
    )
