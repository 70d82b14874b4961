"""Between the encoder's feature layer and the LLM: ask the stages, image by equal length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from tokenprune.engine.ask import ask
from tokenprune.engine.call import CallState
from tokenprune.engine.encoder.state import EncoderState
from tokenprune.engine.maps import Maps
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import ReductionError, UnsupportedCallError
from tokenprune.interface.signals import Companions, read
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import placement
from tokenprune.interface.trace import Shapes
from tokenprune.plan import Total
from tokenprune.plan.budget import split

Prompts = Callable[[Sequence["ImageBatch"]], Iterable[Sequence[int]]]
"""Tells the images of each prompt, by their numbers in `ImageBatch.rows`."""


def one_by_one(batches: Sequence[ImageBatch]) -> Iterator[Sequence[int]]:
    """Every image as a prompt of its own."""
    yield from ([row] for batch in batches for row in batch.rows)


@dataclass
class ImageBatch:
    """Images with equally many tokens, or videos.

    Attributes:
        rows: their numbers in the batch of features; of videos, those among its videos.
        state: sizes, places and signals of their tokens.
        hidden: features `[b, P + K, D]`.
        shared: signals of whole images, `[b, ...]`.
        parts: maps that the tokens of an image stand in, see `Places.parts`.
        tiles: in how many pieces the tower saw an image; None for one a frame.
    """

    rows: list[int]
    state: EncoderState
    hidden: Tensor
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    parts: Shapes = ()
    tiles: int | None = None

    @property
    def frames(self) -> int:
        """Images in it, a video being one for each of its frames."""
        return len(self.rows) * self.state.grid[0]


def image_batch(call: CallState, features: Tensor, prefix: int) -> ImageBatch:
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
    return ImageBatch(list(range(features.shape[0])), replace(state, prefix=prefix), features)


def run_stages(
    call: CallState,
    stages: Sequence[ResolvedStage],
    batches: list[ImageBatch],
    site: Site,
    prompts: Prompts = one_by_one,
) -> list[ImageBatch]:
    """What pre-LLM stages leave, by images with equally many tokens.

    Args:
        call: the running call.
        stages: those that act on these features, before or after the projector.
        batches: images with equally many tokens.
        site: where they act.
        prompts: tells which images share a prompt, and so a total budget.

    Raises:
        ReductionError: an image would have no token left.
    """
    for stage in stages:
        # companion tokens were made frame by frame, so frames stay apart for their strategy
        if stage.strategy.companions() is None:
            batches = whole_videos(batches)
        with call.meter.stage("select"):
            shared = list(_shared(stage, batches, prompts))
            batches = [
                done for one, share in shared for done in _reduce(call, stage, one, site, share)
            ]
    return batches


def _shared(
    stage: ResolvedStage, batches: Sequence[ImageBatch], prompts: Prompts
) -> Iterator[tuple[ImageBatch, int | None]]:
    """The batches, apart by what falls to their images of a total; None where there is none."""
    keep = stage.plan.keep
    if not isinstance(keep, Total):
        yield from ((batch, None) for batch in batches)
        return
    counts = {row: batch.state.index.shape[1] for batch in batches for row in batch.rows}
    share = dict[int, int]()
    for mine in prompts(batches):
        parts = split(keep.total, [counts[row] for row in mine], f"{stage.where}.keep")
        share |= dict(zip(mine, parts, strict=True))
    for batch in batches:
        for part in sorted({share[row] for row in batch.rows}):
            same = [place for place, row in enumerate(batch.rows) if share[row] == part]
            yield _pick(batch, same), part


def count_left(call: CallState, batches: Sequence[ImageBatch]) -> None:
    """Note how many tokens the images have behind all pre-LLM stages."""
    total = sum(batch.state.index.numel() for batch in batches)
    call.meter.count("pre_llm", total, sum(batch.frames for batch in batches))


def whole_videos(batches: Sequence[ImageBatch]) -> list[ImageBatch]:
    """Batches of frames as batches of videos of equally many frames; others as they are."""
    found = []
    for batch in batches:
        videos = batch.state.videos
        for bucket in videos.buckets() if videos is not None else ():
            shared = {name: bucket.first(value) for name, value in batch.shared.items()}
            joined = bucket.join(batch.hidden)
            found.append(
                ImageBatch(list(bucket.videos), batch.state.of_videos(bucket), joined, shared)
            )
        found += [batch] if videos is None else []
    return found


def _reduce(
    call: CallState, stage: ResolvedStage, batch: ImageBatch, site: Site, share: int | None
) -> Iterator[ImageBatch]:
    state, strategy = batch.state, stage.strategy
    known = {**state.signals, **state.prefixed, **batch.shared}
    wanted = strategy.signals(site)
    signals = {signal.name: known[signal.name] for signal in wanted if signal.name in known}
    if stage.number in state.companions:
        signals |= read(wanted, Companions(state.companions[stage.number]))
    tokens = state.tokens(batch.hidden, site, signals)
    shown = tokens
    if batch.parts and placement(strategy, "pre_llm").maps:
        maps = Maps(batch.parts)
        shown = replace(tokens, grid=maps.grid, index=maps.raster(tokens.index))
    keep = stage.keep(tokens.count, state.grid[0], batch.tiles, share)
    # pictures of other sizes, and shares of a total, are not known before
    stage.check(site, tokens.count, keep, shown.grid)
    for part in ask(stage, shown, keep, call.conditions):
        left = _pick(batch, part.rows)
        if part.dense is not None and part.dense.length == 0:
            raise ReductionError(
                f"the strategy '{strategy.name}' left no token of image {left.state.images[0]}.",
                where=f"{stage.where}, {site}",
                remedy="Every image keeps at least one token outside of decoder stages.",
            )
        hidden = left.state.apply(tokens.of(part.rows), part, left.hidden)
        if part.dense is not None:
            left.state.record(site, stage, part.dense.slot, part.score)
        yield replace(left, hidden=hidden)


def _pick(batch: ImageBatch, rows: Sequence[int] | None) -> ImageBatch:
    state = batch.state
    if rows is None or len(rows) == len(batch.rows):
        return replace(batch, state=replace(state))
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
    return replace(
        batch,
        rows=[batch.rows[row] for row in rows],
        state=picked,
        hidden=batch.hidden[rows],
        shared={name: value[rows] for name, value in batch.shared.items()},
    )
