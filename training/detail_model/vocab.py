"""The small model's words, and behind them those that the detail task needs besides."""

from __future__ import annotations

from tokenprune.reference.detail_questions import detail_words
from training.reference_model import vocab

WORDS = (*vocab.WORDS, *detail_words())
WORD_ID = {word: number for number, word in enumerate(WORDS)}
