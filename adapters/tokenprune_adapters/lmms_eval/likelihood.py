"""How likely a model finds a given answer, as lmms-eval asks in multiple-choice tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

#: A label that no loss counts, in transformers and torch.
IGNORED = -100
IDS, LABELS = "input_ids", "labels"


def with_answer(
    inputs: Mapping[str, Any], answer: Tensor, values: Mapping[str, int]
) -> dict[str, Any]:
    """The inputs of one prompt with an answer behind it, and labels that say so.

    A plan chooses tokens by what is in front of the first labelled token, so no answer takes part.

    Args:
        inputs: of one prompt, without padding; those with an entry for each token are `[1, T]`.
        answer: token ids `[A]`.
        values: what inputs with an entry for each token say of an answer's, where that isn't 0.
    """
    ids: Tensor = inputs[IDS]
    count = len(answer)
    grown = {
        name: pad(value, (0, count), value=values.get(name, 0))
        if isinstance(value, Tensor) and value.shape == ids.shape
        else value
        for name, value in inputs.items()
    }
    behind = answer.to(ids)[None]
    grown[IDS] = torch.cat((ids, behind), dim=1)
    if "attention_mask" in inputs:
        grown["attention_mask"] = torch.cat(
            (inputs["attention_mask"], torch.ones_like(behind)), dim=1
        )
    grown[LABELS] = torch.cat((torch.full_like(ids, IGNORED), behind), dim=1)
    return grown


def judged(logits: Tensor, answer: Tensor) -> tuple[float, bool]:
    """Mean negative log-likelihood of an answer's tokens, and whether greedy decoding gives them.

    Args:
        logits: `[1, T + A, V]` of a prompt and the answer behind it.
        answer: token ids `[A]`.
    """
    count = len(answer)
    # the logits at a token are about the next one
    told = logits[0, -count - 1 : -1].float()
    wanted = answer.to(told.device)
    loss = float(cross_entropy(told, wanted))
    return loss, bool((told.argmax(dim=-1) == wanted).all())
