"""The closed vocabulary of the reference model and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tokenprune.reference import vocabulary

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
PAD, BOS, EOS, UNK, IMAGE = range(len(SPECIAL))
WORDS = (*SPECIAL, *vocabulary())
WORD_ID = {word: index for index, word in enumerate(WORDS)}


def build_tokenizer(
    words: Mapping[str, int] = WORD_ID, longest: int = 512
) -> PreTrainedTokenizerFast:
    """A lower-casing word tokenizer that splits off the question mark and prepends `<bos>`.

    Args:
        words: ids by word, the special ones first.
        longest: tokens of the longest prompt.
    """
    core = Tokenizer(WordLevel(dict(words), unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("?", "isolated")]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=longest,
    )
