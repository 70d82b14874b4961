"""The samples of a study's tasks, and a digest that says which they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from tokenprune.compare.pictures import (
    heldout_clip_questions,
    heldout_questions,
    open_picture,
)
from tokenprune.compare.settings import CLIP_QUESTIONS, QUESTIONS
from tokenprune.compare.task import Question
from tokenprune.compare.videos import Clip
from tokenprune.studies.hub import dataset_questions
from tokenprune.studies.jsonl import read_jsonl
from tokenprune.studies.model import TaskEntry


def opened(image: Any) -> Any:
    """A picture, read if it is a file or encoded; several of them, or frames, as a list.

    Raises:
        DataError: a file is missing, or no picture or video.
        BackendUnavailableError: a video needs PyAV, which isn't installed.
    """
    if isinstance(image, Clip):
        return image.pictures()
    if isinstance(image, list | tuple):
        return [opened(one) for one in image]
    if isinstance(image, bytes):
        return open_picture(BytesIO(image))
    return open_picture(image) if isinstance(image, Path) else image


def questions(entry: TaskEntry) -> list[Question]:
    """The questions of a task for multimodal LLMs.

    Raises:
        DataError: a file is missing or a line of it is wrong.
    """
    if entry.kind == "jsonl":
        assert entry.path is not None
        return read_jsonl(entry.path, frames=entry.frames)[: entry.limit]
    if entry.kind == "dataset":
        return dataset_questions(entry)
    return list(_builtin(entry.kind, entry.limit))


@lru_cache(maxsize=2)
def _builtin(kind: str, limit: int | None) -> tuple[Question, ...]:
    """Drawn once a process: rendering them takes longer than a small cell."""
    if kind == "video":
        return tuple(heldout_clip_questions(limit or CLIP_QUESTIONS))
    return tuple(heldout_questions(limit or QUESTIONS))


def revision(samples: Sequence[Question], choices: Sequence[Sequence[str]] = ()) -> str:
    """SHA-256 of samples and their pictures, and of the texts that answers are chosen from.

    Of videos, the bytes of their files count; nothing is decoded.
    """
    digest = cache(Clip.digest)  # several questions may be about one video
    total = hashlib.sha256(json.dumps(choices).encode() if choices else b"")
    for sample in samples:
        about = [sample.text, sample.answer, sample.kind, *sample.others]
        total.update(json.dumps(about).encode())
        several = isinstance(sample.image, list | tuple)
        for image in sample.image if several else (sample.image,):
            total.update(digest(image) if isinstance(image, Clip) else _bytes(image))
    return total.hexdigest()


def _bytes(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    return bytes(image.read_bytes() if isinstance(image, Path) else image.tobytes())
