"""From features to what the LLM's embeddings take over: project, and put in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.engine.images import ImageTokens
from tokenprune.engine.pre_llm.stages import ImageBatch
from tokenprune.engine.spreading import spread
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import PlanError, UnsupportedModelError
from tokenprune.interface.strategy import placement


def split_at_projector(
    stages: Sequence[ResolvedStage],
) -> tuple[list[ResolvedStage], list[ResolvedStage]]:
    """Pre-LLM stages that act on the projector's input, and those that act on its output.

    Raises:
        PlanError: one of the first kind stands behind one of the second.
    """
    before = [stage for stage in stages if not placement(stage.strategy, "pre_llm").projected]
    after = [stage for stage in stages if placement(stage.strategy, "pre_llm").projected]
    if before and after and before[-1].number > after[0].number:
        raise PlanError(
            f"'{before[-1].plan.strategy}' acts on the projector's input, and "
            f"'{after[0].plan.strategy}' in front of it (stages.{after[0].number}) on its output.",
            where=before[-1].where,
            remedy=f"Put '{before[-1].plan.strategy}' before '{after[0].plan.strategy}'.",
        )
    return before, after


def project(
    batches: Sequence[ImageBatch], projector: Callable[[Tensor], Tensor]
) -> list[ImageBatch]:
    """The same images with projected features, `[b, P + K, d_llm]`.

    Raises:
        UnsupportedModelError: the projector doesn't give one token for each that it gets.
    """
    if len(batches) > 1 and all(image.complete for batch in batches for image in images_of(batch)):
        # one call, as in the plain model: another shape of the batch can round differently
        made = projector(_stacked(batches, [batch.hidden for batch in batches]))
        return list(_unstacked(batches, made))
    found = []
    for batch in batches:
        made = projector(batch.hidden)
        if made.shape[:2] != batch.hidden.shape[:2]:
            raise UnsupportedModelError(
                f"it makes {tuple(made.shape)} of {tuple(batch.hidden.shape)}, and tokens can "
                "only be followed through a projector that keeps their number.",
                where="projector",
            )
        found.append(replace(batch, hidden=made))
    return found


def place(batches: Sequence[ImageBatch]) -> tuple[Tensor, list[ImageTokens]]:
    """Projected features at the places of all placeholders, and what is left of every image.

    Places of removed tokens hold zeros, which never reach the LLM. The output has the shape of
    the plain model's, `[n, P + N, d_llm]`; a video has a row for each frame.
    """
    images = in_order(batches)
    if all(image.complete for image in images):
        return _stacked(batches, [batch.hidden for batch in batches]), images
    placed = [
        spread(one.hidden, one.state.index, one.state.prefix, math.prod(one.state.grid))
        for one in batches
    ]
    return _stacked(batches, placed), images


def _stacked(batches: Sequence[ImageBatch], parts: Sequence[Tensor]) -> Tensor:
    """Complete features of every batch, `[b, T * N, D]`, as a batch of frames `[n, N, D]`."""
    if len(batches) == 1 and batches[0].state.grid[0] == 1:
        return parts[0]
    split = [
        torch.unflatten(p, 1, (g.state.grid[0], -1)) for g, p in zip(batches, parts, strict=True)
    ]
    if len(batches) == 1:
        return split[0].flatten(0, 1)
    rows = {
        row: frames
        for batch, part in zip(batches, split, strict=True)
        for row, frames in zip(batch.rows, part, strict=True)
    }
    return torch.cat([rows[row] for row in sorted(rows)])


def _unstacked(batches: Sequence[ImageBatch], features: Tensor) -> Iterator[ImageBatch]:
    """The batches with their part of a batch of frames `[n, N, D]`."""
    frames = {row: batch.state.grid[0] for batch in batches for row in batch.rows}
    order = sorted(frames)
    split = torch.split(features, [frames[row] for row in order])
    parts = dict(zip(order, split, strict=True))
    for batch in batches:
        hidden = torch.stack([parts[row].flatten(0, 1) for row in batch.rows])
        yield replace(batch, hidden=hidden)


def images_of(batch: ImageBatch) -> Iterator[ImageTokens]:
    """What is left of every image of a batch."""
    state = batch.state
    for row, number in enumerate(state.images):
        riders = {name: value[row] for name, value in state.riders.items()}
        index, size = state.index[row], state.size[row]
        yield ImageTokens(
            number, state.grid, state.prefix, index, size, riders, tiles=state.grid[0]
        )


def in_order(batches: Sequence[ImageBatch]) -> list[ImageTokens]:
    """What is left of every image, by its number among them."""
    found = {
        row: image
        for batch in batches
        for row, image in zip(batch.rows, images_of(batch), strict=True)
    }
    return [found[row] for row in sorted(found)]
