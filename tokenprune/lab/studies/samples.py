"""A few pictures of a cell with what was kept of them, small enough for a record."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from tokenprune.engine.attach import attach
from tokenprune.errors import DataError
from tokenprune.interface.loading import Frames, LoadedModel
from tokenprune.interface.trace import ImageTrace
from tokenprune.lab.data.opening import opened
from tokenprune.lab.data.question import Question
from tokenprune.lab.drawing.views import Drawn, drawn
from tokenprune.lab.measure.task import Task
from tokenprune.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image

#: Samples shown, and pixels of the longer side of a thumbnail (ours).
SHOWN, PIXELS = 3, 112


def shown_samples(task: Task, plan: Plan, loaded: LoadedModel) -> list[dict[str, Any]]:
    """The first samples with different pictures, each with what the plan keeps of it.

    Args:
        task: samples and model.
        plan: without stages, everything is kept.
        loaded: the model with its loader's functions.

    Returns:
        A sample each: `question` and `frames`, a frame for each view of each picture. They hold a
        `picture` (data URI), its `grid` of tokens (h, w) and of every token of the grid its
        `owner`: the token whose place the one holds that it ended in, numbered through all
        pictures, or -1 if it was dropped. Samples whose pictures can't be told from the pieces
        that the model sees are left out.
    """
    first: dict[int, Question] = {}
    for question in task.questions:
        first.setdefault(question.image_id, question)
    found = []
    with torch.no_grad():
        for question in list(first.values())[:SHOWN]:
            with attach(task.model, plan) as handle:
                task.call(task.inputs([question]))
                images = handle.trace.images
            shown = opened(question.image)
            pictures = shown if isinstance(shown, list | Frames) else [shown]
            with suppress(DataError):
                frames = _frames(drawn(loaded, pictures, images))
                found.append({"question": question.text, "frames": frames})
    return found


def thumbnail(picture: Image) -> str:
    """A picture as a data URI."""
    small = picture.convert("RGB")
    small.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _frames(pictures: Sequence[Drawn]) -> list[dict[str, Any]]:
    """Grid and owners of every view, or of every frame; numbers go on from picture to picture."""
    found, first = [], 0
    for one in pictures:
        owners = np.append(_owners(one.trace), -1)  # the last entry is for empty places
        for view in one.views:
            mine = owners[view.units].flatten()
            owner = np.where(mine < 0, -1, first + mine).tolist()
            picture, grid = thumbnail(view.picture), list(view.units.shape)
            found.append({"picture": picture, "grid": grid, "owner": owner})
        first += one.trace.patches
    return found


def _owners(image: ImageTrace) -> NDArray[np.int64]:
    """`[N]` token whose place each holds that a token ended in, -1 for dropped ones."""
    if not image.steps:
        return np.arange(image.patches)
    last = image.steps[-1]
    owners: NDArray[np.int64] = np.append(last.anchor.numpy(), -1)[last.assignment.numpy()]
    return owners
