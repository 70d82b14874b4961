"""Between the encoder's feature layer and the projector: reduce, project, put in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenprune.engine.call import CallState
from tokenprune.engine.encoder_state import EncoderState
from tokenprune.engine.images import ImageTokens
from tokenprune.engine.reducing import ask
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import ReductionError, UnsupportedCallError
from tokenprune.reduction import Reduction
from tokenprune.tokens import Site


@dataclass
class Group:
    """Images with equally many tokens.

    Attributes:
        rows: their numbers in the batch of features.
        state: sizes, places and signals of their tokens.
        hidden: features `[b, P + K, D]`.
    """

    rows: list[int]
    state: EncoderState
    hidden: Tensor


def parts(reduction: Reduction, batch: int) -> Iterator[tuple[list[int], Reduction]]:
    """A reduction as dense ones, each for the rows that it leaves equally many tokens."""
    if reduction.mask is None:
        yield list(range(batch)), reduction
        return
    counts = reduction.mask.sum(dim=1).tolist()
    for count in sorted(set(counts)):
        rows = [row for row, value in enumerate(counts) if value == count]
        mask = reduction.mask[rows]
        index = mask.nonzero()[:, 1].view(len(rows), count)
        score = None if reduction.score is None else reduction.score[rows]
        dense = Reduction.keep(index, mask.shape[1], score=score)
        riders = {name: value[rows] for name, value in reduction.riders.items()}
        yield rows, replace(dense, riders=riders)


def reduce_features(
    call: CallState, stages: Sequence[ResolvedStage], features: Tensor, prefix: int, used: int
) -> list[Group]:
    """The features that go on to the projector, by images with equally many tokens.

    Args:
        call: the running call, after its encoder pass.
        stages: the plan's pre-LLM stages.
        features: `[n, P + N, D]` of the feature layer.
        prefix: P, class tokens among them.
        used: encoder blocks that ran.

    Raises:
        UnsupportedCallError: the features are not those of the tower's latest pass.
        ReductionError: an image would have no token left.
    """
    state = call.encoder
    if state is None or features.shape[:2] != (len(state.images), prefix + state.index.shape[1]):
        raise UnsupportedCallError(
            f"features of shape {tuple(features.shape)} are not what the encoder put out.",
            where="projector",
            remedy="Call the model itself, with pixel_values.",
        )
    groups = [Group(list(range(features.shape[0])), replace(state, prefix=prefix), features)]
    site = Site("pre_llm", used, used)
    for stage in stages:
        with call.meter.stage("select"):
            groups = [done for group in groups for done in _reduce(call, stage, group, site)]
        total = sum(group.state.index.numel() for group in groups)
        call.meter.count("pre_llm", total, features.shape[0])
    return groups


def project(
    groups: Sequence[Group], projector: Callable[[Tensor], Tensor]
) -> tuple[Tensor, list[ImageTokens]]:
    """Projected features at the places of all placeholders, and what is left of every image.

    Places of removed tokens hold zeros, which never reach the LLM. The output has the shape of
    the plain model's, `[n, P + N, D]`.
    """
    first = groups[0]
    images = [image for group in groups for image in _images(group)]
    if len(groups) == 1 and all(image.complete for image in images):
        return projector(first.hidden), images
    placed = []
    for group in groups:
        made = projector(group.hidden)
        index, prefix = group.state.index, group.state.prefix
        ahead = torch.arange(prefix, device=index.device).expand(len(group.rows), -1)
        place = torch.cat((ahead, prefix + index), dim=1)[..., None].expand_as(made)
        room = made.new_zeros(len(group.rows), images[0].count, made.shape[2])
        placed.append(room.scatter(1, place, made))
    order = [row for group in groups for row in group.rows]
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.cat(placed)[back], [images[place] for place in back]


def _reduce(call: CallState, stage: ResolvedStage, group: Group, site: Site) -> Iterator[Group]:
    state, strategy = group.state, stage.strategy
    call.watch(site, group.hidden)
    signals = {
        signal.name: state.signals[signal.name]
        for signal in strategy.signals(site)
        if signal.name in state.signals
    }
    if stage.number in state.companions:
        signals["companions"] = state.companions[stage.number]
    tokens = state.tokens(group.hidden, site, signals)
    reduction = ask(stage, tokens, stage.keep(tokens.count))
    if not reduction.changes:
        state.remember(reduction)
        yield group
        return
    for rows, dense in parts(reduction, len(group.rows)):
        part = _pick(group, rows)
        if dense.length == 0:
            raise ReductionError(
                f"the strategy '{strategy.name}' left no token of image {part.state.images[0]}.",
                where=f"{stage.where}, {site}",
                remedy="Every image keeps at least one token outside of decoder stages.",
            )
        part.state.remember(dense)
        hidden = part.state.apply(part.hidden, dense)
        assert dense.slot is not None
        call.trace.record(
            site, strategy.name, part.state.images, dense.slot, part.state.index, dense.score
        )
        yield Group(part.rows, part.state, hidden)


def _pick(group: Group, rows: list[int]) -> Group:
    state = group.state
    picked = replace(
        state,
        images=[state.images[row] for row in rows],
        size=state.size[rows],
        index=state.index[rows],
        riders={name: value[rows] for name, value in state.riders.items()},
        signals={name: value[rows] for name, value in state.signals.items()},
        companions={number: value[rows] for number, value in state.companions.items()},
        previous=None,
    )
    return Group([group.rows[row] for row in rows], picked, group.hidden[rows])


def _images(group: Group) -> Iterator[ImageTokens]:
    state = group.state
    for row, number in enumerate(state.images):
        riders = {name: value[row] for name, value in state.riders.items()}
        index, size = state.index[row], state.size[row]
        yield ImageTokens(number, state.grid, state.prefix, index, size, riders)
