"""The samples of a study's tasks, and a digest that says which they are."""

from __future__ import annotations

from functools import lru_cache

from tokenprune.lab.compare.settings import CLIP_QUESTIONS, QUESTIONS
from tokenprune.lab.data.hub import dataset_questions
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.data.pictures import heldout_clip_questions, heldout_questions
from tokenprune.lab.data.question import Question
from tokenprune.lab.studies.model import TaskEntry


def questions(entry: TaskEntry) -> list[Question]:
    """The questions of a task for multimodal LLMs.

    Raises:
        DataError: a file is missing or a line of it is wrong.
    """
    if entry.kind == "jsonl":
        assert entry.path is not None
        return read_jsonl(entry.path, frames=entry.frames)[: entry.limit]
    if entry.kind == "dataset":
        return dataset_questions(entry.hub)
    return list(_builtin(entry.kind, entry.limit))


@lru_cache(maxsize=2)
def _builtin(kind: str, limit: int | None) -> tuple[Question, ...]:
    """Drawn once a process: rendering them takes longer than a small cell."""
    if kind == "video":
        return tuple(heldout_clip_questions(limit or CLIP_QUESTIONS))
    return tuple(heldout_questions(limit or QUESTIONS))
