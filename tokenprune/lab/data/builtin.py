"""The built-in tasks by name: their questions, and how many are usually asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tokenprune.lab.data.pictures import (
    heldout_clip_questions,
    heldout_detail_questions,
    heldout_questions,
)
from tokenprune.lab.data.question import Question

#: Questions of the built-in tasks (ours): what two cores answer with all plans in a few minutes.
#: A detail picture costs about three times as much as one of the small model, and a video eight
#: pictures and as many times the prompt.
DETAIL_QUESTIONS, QUESTIONS, CLIP_QUESTIONS = 150, 300, 40


@dataclass(frozen=True)
class BuiltIn:
    """A built-in task.

    Attributes:
        questions: the held-out ones, or so many of them.
        usual: how many are asked where nothing is said.
    """

    questions: Callable[[int | None], list[Question]]
    usual: int


BUILT_IN: Mapping[str, BuiltIn] = {
    "detail": BuiltIn(heldout_detail_questions, DETAIL_QUESTIONS),
    "image": BuiltIn(heldout_questions, QUESTIONS),
    "video": BuiltIn(heldout_clip_questions, CLIP_QUESTIONS),
}
