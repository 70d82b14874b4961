"""Questions to batches: prompts as the model is called with, answers behind them, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.loading import LoadedMllm
from tokenprune.interface.trainable import IGNORE, Batch
from tokenprune.lab.data.question import Question
from tokenprune.lab.positions import check_questions

PROMPT, MASK, PIXELS = "input_ids", "attention_mask", "pixel_values"


def make_batch(loaded: LoadedMllm, questions: Sequence[Question], shared: int) -> Batch:
    """One batch; answers end at the same place in every row.

    Args:
        loaded: the model.
        questions: `shared` about each picture, one after the other.
        shared: how many questions use one picture, which goes through the encoder once for them;
            where inputs don't allow to leave out repeated pictures, every question brings its own.

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
    pixels = inputs.get(PIXELS)
    alone = set(inputs) <= {PROMPT, MASK, PIXELS}
    if shared > 1 and alone and pixels is not None and len(pixels) == len(questions):
        inputs[PIXELS] = pixels[::shared]
    else:
        shared = 1
    inputs, labels = _appended(inputs, answers, loaded.answer_values)
    check_questions(loaded.model, inputs, [question.text for question in questions], 0)
    return Batch(inputs, labels, shared, tuple(question.kind for question in questions))


def _appended(
    inputs: Mapping[str, Any], answers: Sequence[Sequence[int]], values: Mapping[str, int]
) -> tuple[dict[str, Any], Tensor]:
    """Answers behind left-padded prompts; shorter ones get more padding in front.

    Args:
        inputs: of the prompts; whatever has an entry for each token grows with them.
        answers: token ids of every row.
        values: what such inputs say of a token of an answer, see `LoadedMllm.answer_values`.
    """
    prompt, mask = inputs[PROMPT], inputs[MASK]
    longest = max(len(answer) for answer in answers)
    ahead = [longest - len(answer) for answer in answers]
    grown = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == prompt.shape:
            front = {PROMPT: _padding(prompt, mask)}.get(name, 0)
            behind = {MASK: 1}.get(name, values.get(name, 0))
            grown[name] = _grown(value, ahead, longest, front, behind)
    labels = torch.full_like(grown[PROMPT], IGNORE)
    for row, answer in enumerate(answers):
        tail = prompt.new_tensor(answer)
        grown[PROMPT][row, labels.shape[1] - len(answer) :] = tail
        labels[row, labels.shape[1] - len(answer) :] = tail
    return grown, labels


def _grown(value: Tensor, ahead: Sequence[int], longest: int, front: int, behind: int) -> Tensor:
    """Entries of prompts `[B, T]` with `longest` more: so many of them ahead, the rest behind."""
    rows = [
        torch.cat((one.new_full((before,), front), one, one.new_full((longest - before,), behind)))
        for one, before in zip(value, ahead, strict=True)
    ]
    return torch.stack(rows)


def _padding(prompt: Tensor, mask: Tensor) -> int:
    """The padding token, as the prompts use it; any token does, since the mask hides it."""
    hidden = prompt[mask == 0]
    return int(hidden[0]) if len(hidden) else 0
