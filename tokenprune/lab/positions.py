"""Prompts that are longer than the LLM has positions: refused, since their answers mean nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from tokenprune.errors import DataError

#: Letters of a question that errors show.
SHOWN = 60


def position_limit(model: nn.Module) -> int | None:
    """Positions that the LLM's configuration names; None where it names none."""
    config = getattr(model, "config", None)
    for name in ("text_config", "llm_config", "language_config"):
        config = getattr(config, name, None) or config
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def check_positions(
    model: nn.Module, inputs: Mapping[str, Any], new_tokens: int, *, where: str, remedy: str
) -> None:
    """Refuse a batch that is longer than the LLM has positions.

    Args:
        model: the multimodal LLM.
        inputs: what it is called with; `input_ids` `[B, T]` with a place for every visual token.
        new_tokens: generated behind them.
        where: what errors name.
        remedy: what would do.

    Raises:
        DataError: with both numbers.
    """
    limit, ids = position_limit(model), inputs.get("input_ids")
    if limit is None or ids is None or ids.shape[-1] + new_tokens <= limit:
        return
    raise DataError(
        f"a prompt of {ids.shape[-1]} tokens and {new_tokens} new ones don't fit into the "
        f"{limit} positions of the model's LLM.",
        where=where,
        remedy=remedy,
    )


def check_questions(
    model: nn.Module, inputs: Mapping[str, Any], questions: Sequence[str], new_tokens: int
) -> None:
    """The same for questions, the longest of which is named.

    Args:
        model: the multimodal LLM.
        inputs: of the questions; `attention_mask` `[B, T]` says how long each is.
        questions: their texts, in order.
        new_tokens: generated behind them.

    Raises:
        DataError: with the question and both numbers.
    """
    mask = inputs.get("attention_mask")
    longest = 0 if mask is None else int(mask.sum(dim=-1).argmax())
    text = questions[longest]
    check_positions(
        model,
        inputs,
        new_tokens,
        where=f"question '{text[:SHOWN]}{'...' if len(text) > SHOWN else ''}'",
        remedy="Ask about fewer or smaller pictures or fewer frames, in fewer words, generate "
        "fewer tokens, or take a model with more positions.",
    )
