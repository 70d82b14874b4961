"""From features to what the LLM's embeddings take over: project, and put in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.engine.images import ImageTokens
from tokenprune.engine.pre_llm.stages import Group
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


def project(groups: Sequence[Group], projector: Callable[[Tensor], Tensor]) -> list[Group]:
    """The same images with projected features, `[b, P + K, d_llm]`.

    Raises:
        UnsupportedModelError: the projector doesn't give one token for each that it gets.
    """
    if len(groups) > 1 and all(image.complete for group in groups for image in images_of(group)):
        # one call, as in the plain model: another shape of the batch can round differently
        made = projector(_stacked(groups, [group.hidden for group in groups]))
        return list(_unstacked(groups, made))
    found = []
    for group in groups:
        made = projector(group.hidden)
        if made.shape[:2] != group.hidden.shape[:2]:
            raise UnsupportedModelError(
                f"it makes {tuple(made.shape)} of {tuple(group.hidden.shape)}, and tokens can "
                "only be followed through a projector that keeps their number.",
                where="projector",
            )
        found.append(replace(group, hidden=made))
    return found


def place(groups: Sequence[Group]) -> tuple[Tensor, list[ImageTokens]]:
    """Projected features at the places of all placeholders, and what is left of every image.

    Places of removed tokens hold zeros, which never reach the LLM. The output has the shape of
    the plain model's, `[n, P + N, d_llm]`; a video has a row for each frame.
    """
    found = [image for group in groups for image in images_of(group)]
    order = [row for group in groups for row in group.rows]
    images = [found[order.index(row)] for row in sorted(order)]
    if all(image.complete for image in images):
        return _stacked(groups, [group.hidden for group in groups]), images
    placed = []
    for group in groups:
        index, prefix = group.state.index, group.state.prefix
        ahead = torch.arange(prefix, device=index.device).expand(len(group.rows), -1)
        column = torch.cat((ahead, prefix + index), dim=1)[..., None].expand_as(group.hidden)
        count = prefix + math.prod(group.state.grid)
        room = group.hidden.new_zeros(len(group.rows), count, group.hidden.shape[2])
        placed.append(room.scatter(1, column, group.hidden))
    return _stacked(groups, placed), images


def _stacked(groups: Sequence[Group], parts: Sequence[Tensor]) -> Tensor:
    """Complete features of every group, `[b, T * N, D]`, as a batch of frames `[n, N, D]`."""
    split = [
        torch.unflatten(p, 1, (g.state.grid[0], -1)) for g, p in zip(groups, parts, strict=True)
    ]
    if len(groups) == 1:
        return split[0].flatten(0, 1)
    rows = {
        row: frames
        for group, part in zip(groups, split, strict=True)
        for row, frames in zip(group.rows, part, strict=True)
    }
    return torch.cat([rows[row] for row in sorted(rows)])


def _unstacked(groups: Sequence[Group], features: Tensor) -> Iterator[Group]:
    """The groups with their part of a batch of frames `[n, N, D]`."""
    frames = {row: group.state.grid[0] for group in groups for row in group.rows}
    order = sorted(frames)
    split = torch.split(features, [frames[row] for row in order])
    parts = dict(zip(order, split, strict=True))
    for group in groups:
        hidden = torch.stack([parts[row].flatten(0, 1) for row in group.rows])
        yield replace(group, hidden=hidden)


def images_of(group: Group) -> Iterator[ImageTokens]:
    """What is left of every image of a group."""
    state = group.state
    for row, number in enumerate(state.images):
        riders = {name: value[row] for name, value in state.riders.items()}
        index, size = state.index[row], state.size[row]
        yield ImageTokens(number, state.grid, state.prefix, index, size, riders)
