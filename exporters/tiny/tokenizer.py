"""A real CLIP tokenizer (byte-level BPE) that knows the words of the grammar and every byte.

One chain of merges makes each word of the grammar a single token; anything else falls apart into
letters, so that no prompt is an error. Prompts are padded to 32 tokens with the end token.
"""

from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from exporters.tiny.models import PROMPT_LENGTH
from exporters.tiny.scenes import EXTRA_WORDS, PALETTE, POSITIONS, SHAPES, SIZES

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
PICTURE_WORDS = frozenset((*PALETTE, *SHAPES, *POSITIONS, *SIZES, *EXTRA_WORDS))


def build_tokenizer(grammar: Iterable[str] = PICTURE_WORDS) -> CLIPTokenizer:
    """Vocabulary: every byte, every byte at a word's end, the chains of the words, two marks."""
    words = sorted(set(grammar))
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [*word[:-1], word[-1] + WORD_END]
        # From the end backwards: "r e d</w>" -> "r ed</w>" -> "red</w>". Chains of two words share
        # a merge only where they share an ending, and so no merge of one can spoil the other.
        whole = pieces.pop()
        while pieces:
            pair = (pieces.pop(), whole)
            whole = "".join(pair)
            if pair not in merges:
                merges.append(pair)
                vocabulary.append(whole)
    vocabulary += [START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        merges=merges,
        model_max_length=PROMPT_LENGTH,
    )
