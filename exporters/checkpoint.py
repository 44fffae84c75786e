"""A checkpoint in diffusers' folder format: what it says of itself, and its parts one at a time.

Nothing here runs what a checkpoint brings along: weights are read from safetensors only, classes
are diffusers' and transformers' own, and a pickle is refused unread. A part is loaded alone and let
go, so that a large checkpoint needs memory for its largest part and not for all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging as transformers_logging

from exporters.errors import CheckpointError
from exporters.tokenizers import require_vocabulary

_LIBRARIES = {"diffusers": diffusers, "transformers": transformers}
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")
_WHOLE = ("scheduler", "tokenizer")  # folders that hold no weights begin so
_NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")  # no export needs them
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Options:
    """What can be chosen about a family's graphs.

    Attributes:
        text_tokens: length of T5's prompts; 0 for the family's.
        frames: pictures in a clip; 0 for the family's.
    """

    text_tokens: int = 0
    frames: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """The folder, its index and every part's config.json; no weights yet.

    `schedule` is scheduler_config.json as it lies in the folder: a pipeline's own copy is no use,
    since diffusers' constructor overwrites its steps_offset.
    """

    folder: Path
    index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    schedule: Mapping[str, Any]
    options: Options = field(default_factory=Options)

    @classmethod
    def open(cls, folder: Path, options: Options | None = None) -> Checkpoint:
        """Read what the folder says of itself.

        Raises:
            CheckpointError: a file is missing or is not JSON; names it.
        """
        _quieten()
        index = _json(folder / "model_index.json", "not a folder of diffusers'")
        configs = {}
        for name, entry in index.items():
            holds_weights = isinstance(entry, list) and entry[0] and not name.startswith(_WHOLE)
            if holds_weights and name not in _NEVER_LOADED:
                configs[name] = _json(folder / name / "config.json", "the index names this part")
        schedule = _json(folder / "scheduler" / "scheduler_config.json", "no noise schedule")
        return cls(folder, index, configs, schedule, options or Options())

    def require(self, parts: Sequence[str]) -> None:
        """Raises: CheckpointError, naming the first file that a family needs and is not there."""
        for part in parts:
            if not (self.folder / part).is_dir():
                raise CheckpointError(f"{self.folder / part}: missing; this family needs it")
            if part in self.configs:
                self.weight_files(part)
            elif part.startswith("tokenizer"):
                self.tokenizer(part)

    def files(self, part: str) -> list[Path]:
        """Every file that decides what a part is."""
        if part not in self.configs:
            return sorted(path for path in (self.folder / part).rglob("*") if path.is_file())
        return [self.folder / part / "config.json", *self.weight_files(part)]

    def weight_files(self, part: str) -> list[Path]:
        """The safetensors files of a part, those of its index where it has one.

        Raises:
            CheckpointError: there are none, or only a pickle, or one of the index is missing.
        """
        folder = self.folder / part
        for index in sorted(folder.glob("*.safetensors.index.json")):
            if "." in index.name.removesuffix(".safetensors.index.json"):
                continue  # of a variant, such as model.fp16
            named = sorted(set(_json(index, "weights").get("weight_map", {}).values()))
            for name in named:
                if not (folder / name).is_file():
                    raise CheckpointError(f"{folder / name}: missing; {index.name} names it")
            return [folder / name for name in named]
        found = sorted(folder.glob("*.safetensors"))
        plain = [path for path in found if "." not in path.name.removesuffix(".safetensors")]
        if plain:
            return plain[:1]
        if found:
            raise CheckpointError(
                f"{found[0]}: a variant, and the weights themselves are not there; rename it to"
                f" {found[0].name.partition('.')[0]}.safetensors if it is what you mean"
            )
        pickles = [path for path in sorted(folder.iterdir()) if path.suffix in _PICKLES]
        if pickles:
            raise CheckpointError(
                f"{pickles[0]}: a pickle can run any program, so it is not opened; save the"
                " checkpoint as safetensors (save_pretrained(..., safe_serialization=True))"
            )
        raise CheckpointError(f"{folder}: no *.safetensors with the weights")

    def check_weights(self, part: str, tell: Callable[[int], object]) -> str:
        """Read every weight once: are they numbers? And the SHA-256 of the part's files.

        Args:
            tell: takes the bytes read since it was last called.

        Raises:
            CheckpointError: a file is cut short or holds values that are not finite.
        """
        digest = hashlib.sha256()
        for path in self.files(part):
            digest.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
                    tell(len(block))
            if path.suffix == ".safetensors":
                _require_finite(path)
        return digest.hexdigest()

    def load(self, part: str) -> nn.Module:
        """One part, in float32.

        Raises:
            CheckpointError: weights are missing or have other shapes than config.json says.
        """
        kind = self.kind(part)
        theirs = issubclass(kind, diffusers.ModelMixin)  # it names what does not fit by itself
        if theirs and kind._keep_in_fp32_modules:
            # All is loaded in FP32 here, but a class with such a list asks for accelerate.
            kind = type(kind.__name__, (kind,), {"_keep_in_fp32_modules": None})
        try:
            module, told = kind.from_pretrained(
                self.folder / part,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **({} if theirs else {"ignore_mismatched_sizes": True, "dtype": torch.float32}),
            )
        except (ValueError, RuntimeError, SafetensorError, KeyError, TypeError) as error:
            # diffusers lists every tensor, a line each, and then advises its callers, not ours.
            said = [line.strip() for line in str(error).splitlines()]
            reason = next((line for line in said if "size mismatch" in line), " ".join(said))
            file = self.weight_files(part)[0]
            raise CheckpointError(f"{file}: does not load: {reason}") from error
        mismatched = [entry[0] for entry in told.get("mismatched_keys", ())]
        for keys, what in (
            (mismatched, "has another shape than config.json says"),
            (told.get("missing_keys", ()), "is missing"),
        ):
            if keys:
                file = self.weight_files(part)[0]
                raise CheckpointError(f"{file}: {sorted(keys)[0]} {what} ({len(keys)} such)")
        return module.float().eval()

    def kind(self, part: str) -> Any:
        """The class of a part.

        Raises:
            CheckpointError: it is not one of diffusers' or transformers' own.
        """
        library, name = self.index[part]
        known = getattr(_LIBRARIES.get(library), name, None)
        if known is None:
            raise CheckpointError(
                f"{self.folder / 'model_index.json'}: {part} is {library}.{name}; only classes of"
                " diffusers and transformers are loaded, never code of the checkpoint's"
            )
        return known

    @cached_property
    def _tokenizers(self) -> dict[str, Any]:
        return {}

    def tokenizer(self, part: str) -> Any:
        """The tokenizer of a part.

        Raises:
            CheckpointError: it cannot be read.
        """
        if part not in self._tokenizers:
            kind = self.kind(part)
            require_vocabulary(self.folder / part, kind.vocab_files_names)
            try:
                made = kind.from_pretrained(self.folder / part, local_files_only=True)
                made.backend_tokenizer  # noqa: B018 - only a fast tokenizer has it
            except Exception as error:  # the library raises what it likes
                raise CheckpointError(f"{self.folder / part}: not a tokenizer: {error}") from error
            self._tokenizers[part] = made
        return self._tokenizers[part]

    def special_ids(self, part: str) -> tuple[int, int]:
        """Ids of the end and of the padding."""
        tokenizer = self.tokenizer(part)
        return int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)

    def require_same_vocabulary(self, part: str, other: str) -> None:
        """Raises: CheckpointError, where two tokenizers do not give the same ids."""
        if self.tokenizer(part).get_vocab() != self.tokenizer(other).get_vocab():
            raise CheckpointError(
                f"{self.folder / other}: another vocabulary than {part}'s, which it must share"
            )

    def pipeline(self, kind: Any) -> Any:
        """The whole checkpoint as diffusers runs it, in float32: the reference."""
        parts = {part: self.load(part) for part in self.configs}
        unwanted = dict.fromkeys(part for part in _NEVER_LOADED if part in self.index)
        pipeline = kind.from_pretrained(self.folder, local_files_only=True, **parts, **unwanted)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    @property
    def licence(self) -> str:
        """What the checkpoint's own README says in its header, or that it says nothing."""
        readme = self.folder / "README.md"
        text = readme.read_text(errors="replace") if readme.is_file() else ""
        for line in text.splitlines()[:60]:
            name, _, value = line.partition(":")
            if name.strip() in ("license", "license_name", "licence") and value.strip():
                return value.strip().strip("\"'")
        return "not stated by the checkpoint"


def _json(path: Path, why: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing: {why}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no object")
    return found


def _require_finite(path: Path) -> None:
    """Raises: CheckpointError, naming the file and the first tensor with NaN or infinity."""
    try:
        with safe_open(path, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                tensor = weights.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise CheckpointError(f"{path}: {name} holds values that are not finite (NaN)")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error


def _quieten() -> None:
    """Leave the terminal to our own progress lines."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for library in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
