"""Questions to batches: prompts as the model is called with, answers behind them, labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.loading import LoadedMllm
from tokenprune.interface.trainable import IGNORE, Batch
from tokenprune.lab.positions import check_questions
from tokenprune.lab.train.data import Example

SHAREABLE = {"input_ids", "attention_mask", "pixel_values"}


def make_batch(loaded: LoadedMllm, questions: Sequence[Example], shared: int) -> Batch:
    """One batch; answers end at the same place in every row.

    Args:
        loaded: the model.
        questions: `shared` about each picture, one after the other.
        shared: how many questions use one picture. Families whose inputs don't allow to leave
            out repeated pictures get every picture as often as it is asked about.

    Raises:
        UnsupportedModelError: the loader gives no token ids of answers.
        DataError: a question with its answer is longer than the LLM has positions.
    """
    if loaded.answer_ids is None:
        raise UnsupportedModelError(
            "its loader doesn't turn answers into tokens.",
            where=loaded.name,
            remedy="Set LoadedMllm.answer_ids in the loader.",
        )
    inputs = dict(loaded.prepare([q.image for q in questions], [q.text for q in questions]))
    answers = [loaded.answer_ids(question.answer) for question in questions]
    pixels = inputs.get("pixel_values")
    can_share = set(inputs) <= SHAREABLE and pixels is not None and len(pixels) == len(questions)
    if shared > 1 and can_share:
        inputs["pixel_values"] = inputs["pixel_values"][::shared]
    else:
        shared = 1
    inputs, labels = _appended(inputs, answers)
    check_questions(loaded.model, inputs, [question.text for question in questions], 0)
    return Batch(inputs, labels, shared, tuple(question.kind for question in questions))


def _appended(
    inputs: dict[str, Any], answers: Sequence[Sequence[int]]
) -> tuple[dict[str, Any], Tensor]:
    """Answers behind left-padded prompts; shorter ones get more padding in front."""
    prompt, mask = inputs["input_ids"], inputs["attention_mask"]
    longest = max(len(answer) for answer in answers)
    padding = _padding(prompt, mask)
    ids, masks, labels = [], [], []
    for row, answer in enumerate(answers):
        tail = prompt.new_tensor(answer)
        front = longest - len(answer)
        ids.append(torch.cat((prompt.new_full((front,), padding), prompt[row], tail)))
        masks.append(torch.cat((mask.new_zeros(front), mask[row], mask.new_ones(len(answer)))))
        labels.append(torch.cat((prompt.new_full((front + prompt.shape[1],), IGNORE), tail)))
    return (
        {**inputs, "input_ids": torch.stack(ids), "attention_mask": torch.stack(masks)},
        torch.stack(labels),
    )


def _padding(prompt: Tensor, mask: Tensor) -> int:
    """The padding token, as the prompts use it; any token does, since the mask hides it."""
    hidden = prompt[mask == 0]
    return int(hidden[0]) if len(hidden) else 0
