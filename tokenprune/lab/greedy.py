"""What a model answers: the likeliest tokens or class, refused where its numbers are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tokenprune.errors import TokenpruneError
from tokenprune.errors.words import counted

#: New tokens where nobody says: of answers to the built-in questions, and of others (ours).
SHORT, LONG = 2, 32

REMEDY = (
    "Its weights or its dtype give no numbers: try --dtype float32 (of a study: 'dtype' of the "
    "model)."
)


def generated(model: nn.Module, inputs: Mapping[str, Any], new_tokens: int) -> Tensor:
    """Generate greedily: `[B, prompt + new]`.

    Args:
        model: a multimodal LLM.
        inputs: keyword arguments of its `generate`.
        new_tokens: at most so many behind the prompt.

    Raises:
        TokenpruneError: the largest logit is NaN or infinite, so that the first of several such
            would be taken for the best. Tokens that are ruled out, with -inf, are none of these.
    """
    seen, caller = _Seen(), model.generate
    assert callable(caller)
    ids: Tensor = caller(
        **inputs, max_new_tokens=new_tokens, do_sample=False, logits_processor=[seen]
    )
    broken = 0 if seen.broken is None else int(seen.broken.sum())
    if broken:
        raise TokenpruneError(
            f"the model's logits of {counted(broken, 'answer')} are NaN or infinite, so no token "
            "is the best.",
            remedy=REMEDY,
        )
    return ids


class _Seen:
    """Looks at the logits of every step and changes nothing; nobody waits for the device."""

    def __init__(self) -> None:
        self.broken: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Remember the rows of `[B, V]` without a best token."""
        broken = _no_best(scores)
        self.broken = broken if self.broken is None else self.broken | broken
        return scores


def _no_best(scores: Tensor) -> Tensor:
    """The rows of `[B, C]` whose largest number is none; NaN is larger than all."""
    return ~scores.amax(dim=1).isfinite()


def largest(scores: Tensor) -> list[int]:
    """The column of the largest number of every row `[B, C]`, the lower one on ties.

    Raises:
        TokenpruneError: the largest of a row is NaN or infinite.
    """
    broken = int(_no_best(scores).sum())
    if broken:
        raise TokenpruneError(
            f"the model's scores of {counted(broken, 'picture')} are NaN or infinite, so no class "
            "is the best.",
            remedy=REMEDY,
        )
    numbers: list[int] = scores.argmax(dim=1).tolist()
    return numbers
