"""How good a trained plan is: greedy answers to questions that were not trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tokenprune.engine.attach import attach
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.data.checking import check_samples
from tokenprune.lab.data.question import Question, plain
from tokenprune.lab.greedy import generated
from tokenprune.lab.measure.telling import Tell
from tokenprune.lab.positions import check_questions
from tokenprune.lab.train.data import REFERENCE, opened, read_questions
from tokenprune.plan import Plan
from tokenprune.reference.heldout import HELDOUT_IMAGES, iter_heldout

BATCH = 16


def questions_for(
    data: str, file: Path | None, limit: int, check: int | None = None
) -> list[Question]:
    """Held-out questions: the user's file, or those of the bundled set if trained on it.

    Args:
        data: what is trained on.
        file: JSON-lines file of held-out questions.
        limit: at most so many; 0 for none.
        check: pictures that are opened at once, see `check_samples`.

    Raises:
        DataError: the file is wrong; names file and line.
    """
    if not limit:
        return []
    if file is not None:
        found = read_questions(file)[:limit]
        check_samples(found, check)
        return [opened(question) for question in found]
    if data != REFERENCE:
        return []
    return reference_questions(limit)


def reference_questions(limit: int) -> list[Question]:
    """Held-out questions about as many pictures as can be: a second one of a picture comes last.

    Questions about one picture are not independent. The draw is fixed.
    """
    about: dict[int, list[Question]] = defaultdict(list)
    for sample in iter_heldout(min(limit, HELDOUT_IMAGES)):
        question = Question(sample.image, sample.answer, sample.question, sample.type)
        about[sample.image_id].append(question)
    most = max(len(questions) for questions in about.values())
    turns = (
        questions[(image + turn) % len(questions)]
        for turn in range(most)
        for image, questions in about.items()
        if turn < len(questions)
    )
    return list(islice(turns, limit))


def accuracy(
    loaded: LoadedMllm,
    plan: Plan,
    questions: Sequence[Question],
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Share of right answers with a plan in force, overall and by kind of question.

    An answer is right if it is one of the wanted ones, apart from case and a full stop.
    """
    by_kind: dict[str, list[bool]] = defaultdict(list)
    with torch.no_grad(), attach(loaded.model, plan) as handle:
        for start in range(0, len(questions), BATCH):
            part = questions[start : start + BATCH]
            for question, answer in zip(part, _answers(loaded, part), strict=True):
                right = plain(answer) == plain(question.matched(answer))
                by_kind[question.kind].append(right)
            if tell is not None:
                tell(start + len(part), len(questions), "held-out questions")
        tokens = handle.meter.tokens
    every = [right for kind in by_kind.values() for right in kind]
    kinds = {kind: round(sum(v) / len(v), 4) for kind, v in sorted(by_kind.items()) if kind}
    return {
        "questions": len(every),
        "accuracy": round(sum(every) / len(every), 4),
        "by_type": kinds,
        "tokens": {name: round(value, 2) for name, value in tokens.items()},
    }


def _answers(loaded: LoadedMllm, part: Sequence[Question]) -> list[str]:
    texts = [question.text for question in part]
    inputs = loaded.prepare([question.image for question in part], texts)
    wanted = [answer for question in part for answer in (question.answer, *question.others)]
    longest = max(len(_ids(loaded, answer)) for answer in wanted)
    check_questions(loaded.model, inputs, texts, longest)
    ids = generated(loaded.model, inputs, longest)
    return loaded.decode(ids[:, inputs["input_ids"].shape[1] :])


def _ids(loaded: LoadedMllm, answer: str) -> list[int]:
    assert loaded.answer_ids is not None
    return loaded.answer_ids(answer)
