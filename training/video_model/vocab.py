"""The image model's words, and behind them those that clips need besides."""

from __future__ import annotations

from tokenprune.reference import clip_words
from training.reference_model import vocab

WORDS = (*vocab.WORDS, *clip_words())
WORD_ID = {word: number for number, word in enumerate(WORDS)}
