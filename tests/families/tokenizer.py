"""A tokenizer of printable characters, with a family's special tokens at the ids of its config."""

from __future__ import annotations

import string
from typing import Any

from tests.families.models.common import (
    BOS,
    EOS,
    FIRST_WORD,
    PAD,
    UNKNOWN,
    VOCABULARY,
)

ALPHABET = string.ascii_letters + string.digits + string.punctuation + " \n"
COMMON = {PAD: "<pad>", BOS: "<s>", EOS: "</s>", UNKNOWN: "<unk>"}


def tokenizer(special: dict[int, str], named: dict[str, int]) -> Any:
    """The tokenizer, which pads on the left.

    Args:
        special: the family's own special tokens, by id.
        named: ids of special tokens by the attributes under which processors look for them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {**COMMON, **special}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {token: number for number, token in special.items()}
    for number, character in enumerate(ALPHABET):
        vocabulary[byte_level.pre_tokenize_str(character)[0][0]] = FIRST_WORD + number
    taken = set(vocabulary.values())
    # the rest of the ids stand for words that no text has, so that every answer can be decoded
    rest = (number for number in range(VOCABULARY) if number not in taken)
    vocabulary |= {f"<word{number}>": number for number in rest}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=special[UNKNOWN]))
    built.pre_tokenizer = byte_level
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special.values()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token=special[PAD],
        bos_token=special[BOS],
        eos_token=special[EOS],
        unk_token=special[UNKNOWN],
        padding_side="left",
        extra_special_tokens={name: special[number] for name, number in named.items()},
    )
