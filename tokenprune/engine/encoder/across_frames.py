"""An encoder site that sees the frames of a video together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.videos import Videos
from tokenprune.errors import ReductionError
from tokenprune.interface.dense import Dense

if TYPE_CHECKING:
    from tokenprune.engine.call import CallState
    from tokenprune.engine.encoder.state import EncoderState
    from tokenprune.engine.stages import EncoderSite


def reduce_across(
    call: CallState,
    state: EncoderState,
    site: EncoderSite,
    hidden: Tensor,
    signals: Mapping[str, Tensor],
) -> Tensor:
    """Let an encoder site see whole videos, and split what is left into frames again.

    Args:
        call: the running call.
        state: of the frames; it goes over to what is left of them.
        site: a site of a strategy that spans frames.
        hidden: `[B, P + N, D]`.
        signals: what the strategy asked for, `[B, N, ...]` each.

    Returns:
        `[B, P + K, D]`.

    Raises:
        ReductionError: frames of a video would be left with different numbers of tokens, or the
            strategy wants to reconstruct what it dropped.
    """
    assert state.videos is not None
    prefix, keep = hidden[:, : state.prefix], state.index.shape[1] - site.remove
    units = state.units(hidden)
    states, parts = [], []
    for bucket in state.videos.buckets():
        video, patches = state.of_videos(bucket), bucket.join(units)
        shown = {name: bucket.join(value) for name, value in signals.items()}
        tokens = replace(video.tokens(patches, site.site, shown), prefix=bucket.join(prefix))
        shape = ("frames", site.site, tuple(tokens.hidden.shape), bucket.frames)
        values = call.conditions.wanted(shape)
        (part,) = ask(site.stage, tokens, bucket.frames * keep, call.conditions)
        refuse = _refusal(site, bucket.frames, state.index.shape[1])
        if part.reconstruction is not None:
            raise refuse("spans frames and wants to reconstruct what it dropped")
        if part.dense is not None and values:
            even = _even(part.dense, bucket.frames, state.index.shape[1])
            what = "left the frames of a video differently many tokens"
            call.conditions.require(even, refuse(what))
        patches = video.apply(tokens, part, patches)
        if part.dense is not None:
            video.record(site.site, site.stage, part.dense.slot, part.score)
        states.append(video)
        parts.append(bucket.split(patches))
    _take_over(state, state.videos, states)
    return state.behind_prefix(hidden, state.videos.stack(parts))


def _refusal(site: EncoderSite, frames: int, count: int) -> Callable[[str], ReductionError]:
    def refuse(what: str) -> ReductionError:
        return ReductionError(
            f"the strategy '{site.stage.strategy.name}' {what}.",
            where=f"{site.stage.where}, {site.site}",
            remedy=f"It got {frames} frames of {count} tokens.",
        )

    return refuse


def _even(dense: Dense, frames: int, count: int) -> Tensor:
    """Whether every frame keeps equally many tokens, in its own place: a bool scalar."""
    each = dense.length // frames
    owner = torch.arange(dense.length, device=dense.anchor.device) // max(each, 1)
    return ((dense.anchor // count) == owner).all()


def _take_over(state: EncoderState, videos: Videos, parts: Sequence[EncoderState]) -> None:
    """Bring the frames' state up to that of their videos after a reduction."""
    _, height, width = state.grid
    buckets = videos.buckets()

    def frames(values: Sequence[Tensor]) -> Tensor:
        split = [b.split(value) for b, value in zip(buckets, values, strict=True)]
        return videos.stack(split)

    state.size = frames([part.size for part in parts])
    state.index = frames([part.index for part in parts]) % (height * width)
    if state.entered is not None:
        earlier = frames([part.entered for part in parts if part.entered is not None])
        state.entered = state.behind_prefix(state.entered, earlier)
    names = set.intersection(*(set(part.riders) for part in parts))
    state.riders = {name: frames([part.riders[name] for part in parts]) for name in names}
    state.signals = {name: frames([p.signals[name] for p in parts]) for name in state.signals}
