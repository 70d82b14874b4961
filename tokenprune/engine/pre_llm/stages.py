"""Between the encoder's feature layer and the LLM: ask the stages, image by equal length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.call import CallState
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import ReductionError, UnsupportedCallError
from tokenprune.interface.signals import Companions, read
from tokenprune.interface.tokens import Site


@dataclass
class Group:
    """Images with equally many tokens, or videos.

    Attributes:
        rows: their numbers in the batch of features; of videos, those among its videos.
        state: sizes, places and signals of their tokens.
        hidden: features `[b, P + K, D]`.
        shared: signals of whole images, `[b, ...]`.
    """

    rows: list[int]
    state: EncoderState
    hidden: Tensor
    shared: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Images in it, a video being one for each of its frames."""
        return len(self.rows) * self.state.grid[0]


def enter(call: CallState, features: Tensor, prefix: int) -> Group:
    """All images as they leave the encoder.

    Args:
        call: the running call, after its encoder pass.
        features: `[n, P + N, D]` of the feature layer.
        prefix: P, class tokens among them.

    Raises:
        UnsupportedCallError: the features are not those of the tower's latest pass.
    """
    state = call.state(EncoderState)
    if state is None or features.shape[:2] != (len(state.images), prefix + state.index.shape[1]):
        raise UnsupportedCallError(
            f"features of shape {tuple(features.shape)} are not what the encoder put out.",
            where="projector",
            remedy="Call the model itself, with its pictures.",
        )
    return Group(list(range(features.shape[0])), replace(state, prefix=prefix), features)


def run_stages(
    call: CallState, stages: Sequence[ResolvedStage], groups: list[Group], used: int
) -> list[Group]:
    """What pre-LLM stages leave, by images with equally many tokens.

    Args:
        call: the running call.
        stages: those that act on these features, before or after the projector.
        groups: images with equally many tokens.
        used: encoder blocks that ran.

    Raises:
        ReductionError: an image would have no token left.
    """
    site = Site("pre_llm", used, used)
    for stage in stages:
        # companion tokens were made frame by frame, so frames stay apart for their strategy
        if stage.strategy.companions() is None:
            groups = whole_videos(groups)
        with call.meter.stage("select"):
            groups = [done for group in groups for done in _reduce(call, stage, group, site)]
    return groups


def count_left(call: CallState, groups: Sequence[Group]) -> None:
    """Note how many tokens the images have behind all pre-LLM stages."""
    total = sum(group.state.index.numel() for group in groups)
    call.meter.count("pre_llm", total, sum(group.frames for group in groups))


def whole_videos(groups: Sequence[Group]) -> list[Group]:
    """Groups of frames as groups of videos of equally many frames; others as they are."""
    found = []
    for group in groups:
        videos = group.state.videos
        for bucket in videos.buckets() if videos is not None else ():
            shared = {name: bucket.first(value) for name, value in group.shared.items()}
            joined = bucket.join(group.hidden)
            found.append(Group(list(bucket.videos), group.state.of_videos(bucket), joined, shared))
        found += [group] if videos is None else []
    return found


def _reduce(call: CallState, stage: ResolvedStage, group: Group, site: Site) -> Iterator[Group]:
    state, strategy = group.state, stage.strategy
    known = {**state.signals, **state.prefixed, **group.shared}
    wanted = strategy.signals(site)
    signals = {signal.name: known[signal.name] for signal in wanted if signal.name in known}
    if stage.number in state.companions:
        signals |= read(wanted, Companions(state.companions[stage.number]))
    tokens = state.tokens(group.hidden, site, signals)
    keep = stage.keep(tokens.count, frames=state.grid[0])
    for part in ask(stage, tokens, keep, call.conditions):
        left = _pick(group, part.rows)
        if part.dense is not None and part.dense.length == 0:
            raise ReductionError(
                f"the strategy '{strategy.name}' left no token of image {left.state.images[0]}.",
                where=f"{stage.where}, {site}",
                remedy="Every image keeps at least one token outside of decoder stages.",
            )
        hidden = left.state.apply(tokens.of(part.rows), part, left.hidden)
        if part.dense is not None:
            left.state.record(call.trace, site, strategy.name, part.dense.slot, part.score)
        yield replace(left, hidden=hidden)


def _pick(group: Group, rows: Sequence[int]) -> Group:
    state = group.state
    if len(rows) == len(group.rows):
        return replace(group, state=replace(state))
    rows = list(rows)
    picked = replace(
        state,
        images=[state.images[row] for row in rows],
        size=state.size[rows],
        index=state.index[rows],
        riders={name: value[rows] for name, value in state.riders.items()},
        signals={name: value[rows] for name, value in state.signals.items()},
        prefixed={name: value[rows] for name, value in state.prefixed.items()},
        companions={number: value[rows] for number, value in state.companions.items()},
    )
    shared = {name: value[rows] for name, value in group.shared.items()}
    return Group([group.rows[row] for row in rows], picked, group.hidden[rows], shared)
