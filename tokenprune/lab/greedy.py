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
        TokenpruneError: logits are NaN, of which the first would be taken for the largest.
    """
    seen, caller = _Seen(), model.generate
    assert callable(caller)
    ids: Tensor = caller(
        **inputs, max_new_tokens=new_tokens, do_sample=False, logits_processor=[seen]
    )
    broken = 0 if seen.largest is None else int(seen.largest.isnan().sum())
    if broken:
        raise TokenpruneError(
            f"the model's logits of {counted(broken, 'answer')} are NaN, so no token is the best.",
            remedy=REMEDY,
        )
    return ids


class _Seen:
    """Looks at the logits of every step and changes nothing; nobody waits for the device."""

    def __init__(self) -> None:
        self.largest: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Remember the largest logit of every row `[B, V]`; NaN is larger than all, and stays."""
        largest = scores.amax(dim=-1)
        self.largest = largest if self.largest is None else self.largest.maximum(largest)
        return scores


def largest(scores: Tensor) -> list[int]:
    """The column of the largest number of every row `[B, C]`, the lower one on ties.

    Raises:
        TokenpruneError: a number is NaN, which would be the largest of its row.
    """
    broken = int(scores.isnan().any(dim=1).sum())
    if broken:
        raise TokenpruneError(
            f"the model's scores of {counted(broken, 'picture')} are NaN, so no class is the best.",
            remedy=REMEDY,
        )
    numbers: list[int] = scores.argmax(dim=1).tolist()
    return numbers
