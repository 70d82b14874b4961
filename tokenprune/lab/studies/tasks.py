"""The questions of a study's tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

from tokenprune.errors import DataError
from tokenprune.errors.names import suggestion
from tokenprune.lab.data.builtin import BUILT_IN
from tokenprune.lab.data.hub import dataset_questions
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.data.question import Question
from tokenprune.lab.studies.model import TaskEntry

#: What names another folder of pictures, here and where a command makes a task of its options.
ELSEWHERE = "'images' of the task, or --images"


def questions(entry: TaskEntry) -> list[Question]:
    """The questions of a task for multimodal LLMs.

    Raises:
        DataError: a file is missing or a line of it is wrong.
    """
    if entry.kind == "jsonl":
        assert entry.path is not None
        found = read_jsonl(
            entry.path, frames=entry.frames, folder=entry.images, elsewhere=ELSEWHERE
        )
        return _of_types(found, entry, {one.kind for one in found if one.kind})[: entry.limit]
    if entry.kind == "dataset":
        return dataset_questions(entry.hub)
    most = entry.limit or BUILT_IN[entry.kind].usual
    if entry.types is None:
        return list(_builtin(entry.kind, most))
    every = _builtin(entry.kind, None)
    return _of_types(every, entry, {one.kind for one in every})[:most]


def _of_types(
    found: Sequence[Question], entry: TaskEntry, known: Collection[str]
) -> list[Question]:
    """The questions of the types that the task names, in their order.

    Raises:
        DataError: there is none of a type.
    """
    if entry.types is None:
        return list(found)
    for kind in entry.types:
        if kind not in known:
            raise DataError(
                f"no question of the task '{entry.title}' is of type '{kind}'.",
                where="tasks: types",
                remedy=suggestion(kind, sorted(known)),
            )
    return [one for one in found if one.kind in entry.types]


@lru_cache(maxsize=2)
def _builtin(kind: str, limit: int | None) -> tuple[Question, ...]:
    """Drawn once a process: rendering them takes longer than a small cell."""
    return tuple(BUILT_IN[kind].questions(limit))
