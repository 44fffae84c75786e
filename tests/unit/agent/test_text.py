"""Ids as the checkpoint's own CLIPTokenizer makes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.text import PromptIds, PromptTokenizer
from atelier.catalog import Components, TextFormat
from tests.support.cards import toy_card

ROOT = Path(__file__).parents[3]
CHECKPOINTS = sorted(ROOT.glob("checkpoints/*/tokenizer"))


@pytest.mark.skipif(not CHECKPOINTS, reason="no checkpoint is here")
@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda path: path.parent.name)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle on a blue background",
        "A  RED\tcircle,\non the LEFT!!! 3 1/2 it's",
        "unbekannte Wörter, 円, 🎨, \\ <|endoftext|> <|startoftext|>",
        "many words " * 40,
    ],
)
def test_ids_are_transformers(folder: Path, text: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    tokens = theirs.model_max_length
    ours = PromptTokenizer(folder / "tokenizer.json", tokens)
    expected = theirs(text, padding="max_length", max_length=tokens, truncation=True)["input_ids"]
    assert ours.encode(text, "").tolist()[0] == expected


def write(folder: Path, pad: object) -> Path:
    """A tokenizer of five words, CLIP style."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<bos>": 0, "<eos>": 1, "!": 2, "red": 3, "circle": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("<eos>", 1), ("<bos>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    if pad is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
    return folder / "tokenizer.json"


@pytest.mark.parametrize(
    ("pad", "padding"), [(None, 1), ("<eos>", 1), ("!", 2), ({"content": "!"}, 2), ("gone", 1)]
)
def test_padding_is_what_the_checkpoint_says(tmp_path: Path, pad: object, padding: int) -> None:
    tokenizer = PromptTokenizer(write(tmp_path, pad), 6)
    assert tokenizer.encode("red circle", "").tolist() == [
        [0, 3, 4, 1, padding, padding],
        [0, 1, padding, padding, padding, padding],
    ]


def test_a_long_text_is_cut_before_its_eos(tmp_path: Path) -> None:
    tokenizer = PromptTokenizer(write(tmp_path, None), 4)
    assert tokenizer.encode("red red red circle").tolist() == [[0, 3, 3, 1]]


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizer"):
        PromptTokenizer(tmp_path / "tokenizer.json", 4)


def test_ids_of_two_tokenizers_lie_one_behind_the_other(tmp_path: Path) -> None:
    """CLIP's with bos and eos, and T5's, which knows no bos."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    write(tmp_path, None)
    (tmp_path / "second").mkdir()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁red", -1.0), ("▁circle", -1.0)]
    second = Tokenizer(models.Unigram(pieces, unk_id=2))
    second.pre_tokenizer = pre_tokenizers.Metaspace()
    second.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    second.save(str(tmp_path / "second" / "tokenizer.json"))
    (tmp_path / "second" / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    card = toy_card(
        components=Components(
            "t", "d", "v", "tokenizer.json", second_tokenizer="second/tokenizer.json"
        ),
        text=TextFormat(tokens=12, width=64, ids=4, second_ids=5),
    )

    ids = PromptIds(tmp_path, card).encode("red circle", "red red red red red red")

    assert ids.tolist() == [[0, 3, 4, 1, 3, 4, 1, 0, 0], [0, 3, 3, 1, 3, 3, 3, 3, 1]]
