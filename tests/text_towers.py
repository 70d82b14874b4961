"""A tiny CLIP with its tokenizer, and a tokenizer for the tiny LLMs, both on disk."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests import models

LENGTH = 16
"""Tokens of a text that the tiny tower takes."""
FIRST, LAST = 1, models.VOCABULARY - 1
"""Tokens that the tower's tokenizer puts around a text; the last has the highest number."""


def word(number: int) -> str:
    """The word of a token of the tiny LLMs."""
    return f"w{number}"


def numbers(text: str) -> list[int]:
    """Token ids of a text for the tower, without those around it, by hand."""
    return [int(one.removeprefix("w")) for one in text.split()]


@cache
def clip() -> str:
    """Folder of a CLIPModel as wide as the tiny towers, with a tokenizer of the same words."""
    folder = _folder("clip")
    models.clip().save_pretrained(folder)
    _words(("<pad>", "<bos>"), "<eos>", around=True).save_pretrained(folder)
    return str(folder)


@cache
def narrow_clip() -> str:
    """Folder of a CLIPModel of another width."""
    folder = _folder("narrow")
    models.clip(hidden_size=16).save_pretrained(folder)
    _words(("<pad>", "<bos>"), "<eos>", around=True).save_pretrained(folder)
    return str(folder)


@cache
def tokenizer() -> str:
    """Folder of a tokenizer for the tiny LLMs: every id from 3 on is a word."""
    folder = _folder("words")
    _words(("<pad>", "<bos>", "<eos>"), None).save_pretrained(folder)
    return str(folder)


def named() -> dict[str, str]:
    """What a plan says of both."""
    return {"text_tower": clip(), "tokenizer": tokenizer()}


def _folder(name: str) -> Path:
    top = Path(tempfile.mkdtemp(prefix=f"tokenprune-{name}-"))
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    return top / name


def _words(special: Sequence[str], last: str | None, *, around: bool = False) -> Any:
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    rows = [*special, *(word(n) for n in range(len(special), models.VOCABULARY))]
    if last is not None:
        rows[-1] = last
    core = Tokenizer(kinds.WordLevel({row: n for n, row in enumerate(rows)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if around:
        core.post_processor = TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", FIRST), ("<eos>", LAST)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
