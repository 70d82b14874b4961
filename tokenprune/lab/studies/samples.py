"""A few pictures of a cell with what was kept of them, small enough for a record."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tokenprune.engine.attach import attach
from tokenprune.interface.trace import ImageTrace
from tokenprune.lab.data.opening import opened
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.task import Task
from tokenprune.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image

#: Samples shown, and pixels of the longer side of a thumbnail (ours).
SHOWN, PIXELS = 3, 112


def shown_samples(task: Task, plan: Plan, seen: Callable[[Image], Image]) -> list[dict[str, Any]]:
    """The first samples with different pictures, each with what the plan keeps of it.

    Args:
        task: samples and model.
        plan: without stages, everything is kept.
        seen: a picture -> what the model sees of it.

    Returns:
        A sample each: `question` and `frames`, which hold a `picture` (data URI), its patch `grid`
        (h, w) and of every patch its `owner`: the patch whose place the token holds that it ended
        in, numbered through all frames, or -1 if it was dropped. Samples whose pictures the model
        cuts into tiles are left out: a tile is no picture.
    """
    first: dict[int, Question] = {}
    for question in task.questions:
        first.setdefault(question.image_id, question)
    found = []
    with torch.no_grad():
        for question in list(first.values())[:SHOWN]:
            with attach(task.model, plan) as handle:
                task.call(task.inputs([question]))
                frames = _frames(handle.trace.images)
            shown = opened(question.image)
            pictures = shown if isinstance(shown, list) else [shown]
            if len(frames) == len(pictures):
                drawn = [thumbnail(seen(picture)) for picture in pictures]
                found.append({"question": question.text, "frames": _joined(drawn, frames)})
    return found


def thumbnail(picture: Image) -> str:
    """A picture as a data URI."""
    small = picture.convert("RGB")
    small.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _joined(pictures: Sequence[str], frames: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"picture": one, **frame} for one, frame in zip(pictures, frames, strict=True)]


def _frames(images: Sequence[ImageTrace]) -> list[dict[str, Any]]:
    """Grid and owners of every frame of every image; numbers go on from image to image."""
    found, first = [], 0
    for image in images:
        times, height, width = image.grid
        owners = [owner if owner < 0 else first + owner for owner in _owners(image)]
        for time in range(times):
            start = time * height * width
            mine = owners[start : start + height * width]
            found.append({"grid": [height, width], "owner": mine})
        first += image.patches
    return found


def _owners(image: ImageTrace) -> list[int]:
    if not image.steps:
        return list(range(image.patches))
    last = image.steps[-1]
    return [int(last.anchor[slot]) if slot >= 0 else -1 for slot in last.assignment.tolist()]
