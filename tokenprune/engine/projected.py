"""From features to what the LLM's embeddings take over: project, and put in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.engine.images import ImageTokens
from tokenprune.engine.pre_llm import Group
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import PlanError, UnsupportedModelError


def split_at_projector(
    stages: Sequence[ResolvedStage],
) -> tuple[list[ResolvedStage], list[ResolvedStage]]:
    """Pre-LLM stages that act on the projector's input, and those that act on its output.

    Raises:
        PlanError: one of the first kind stands behind one of the second.
    """
    before = [stage for stage in stages if not stage.strategy.projected]
    after = [stage for stage in stages if stage.strategy.projected]
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
    the plain model's, `[n, P + N, d_llm]`.
    """
    images = [image for group in groups for image in images_of(group)]
    if len(groups) == 1 and all(image.complete for image in images):
        return groups[0].hidden, images
    placed = []
    for group in groups:
        index, prefix = group.state.index, group.state.prefix
        ahead = torch.arange(prefix, device=index.device).expand(len(group.rows), -1)
        column = torch.cat((ahead, prefix + index), dim=1)[..., None].expand_as(group.hidden)
        room = group.hidden.new_zeros(len(group.rows), images[0].count, group.hidden.shape[2])
        placed.append(room.scatter(1, column, group.hidden))
    order = [row for group in groups for row in group.rows]
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(placed)[back], [images[number] for number in back]


def images_of(group: Group) -> Iterator[ImageTokens]:
    """What is left of every image of a group."""
    state = group.state
    for row, number in enumerate(state.images):
        riders = {name: value[row] for name, value in state.riders.items()}
        index, size = state.index[row], state.size[row]
        yield ImageTokens(number, state.grid, state.prefix, index, size, riders)
