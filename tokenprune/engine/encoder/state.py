"""What one pass through a vision encoder carries from block to block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tokenprune.engine.spreading import spread
from tokenprune.engine.stages import EncoderSite
from tokenprune.engine.videos import Bucket, Videos
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.dense import Dense, Part, Reconstruction
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trace import Trace


@dataclass
class Revival:
    """Dropped tokens that can still be reconstructed (IPCV's shape).

    Attributes:
        reconstruction: how.
        strategy: whose drop it was.
        site: where they were dropped.
        rows: `[B, K]` rows of the kept tokens among the tokens before the drop.
        until: first block whose attention no longer sees the full set.
        size, index, riders: `EncoderState`'s before the drop, handed on again when the tokens are
            restored. Riders set after the drop exist for kept tokens only, and are lost then.
        signals: the same; if tokens are restored, later blocks' signals of all tokens go here.
    """

    reconstruction: Reconstruction
    strategy: str
    site: Site
    rows: Tensor
    until: int
    size: Tensor
    index: Tensor
    riders: Mapping[str, Tensor]
    signals: Mapping[str, Tensor]

    def full(self, hidden: Tensor, prefix: int) -> Tensor:
        """All tokens, the dropped ones approximated: `[B, P + K, D]` -> `[B, P + N, D]`."""
        patches = self.reconstruction.full(hidden[:, prefix:])
        return torch.cat((hidden[:, :prefix], patches), dim=1)


@dataclass(frozen=True)
class Exit:
    """Whose states stood in the rows of a depth that is read behind the encoder.

    Attributes:
        index: `[B, K]` patches.
        revival: dropped tokens that are restored there.
    """

    index: Tensor
    revival: Revival | None

    def whole(self, hidden: Tensor, prefix: int, count: int) -> Tensor:
        """States of all patches, zeros for those that are gone: `[B, P + K, D]` -> `[B, P + N, D]`.

        Args:
            hidden: the states at this depth.
            prefix: P.
            count: N.
        """
        index = self.index
        if self.revival is not None:
            hidden, index = self.revival.full(hidden, prefix), self.revival.index
        return hidden if index.shape[1] == count else spread(hidden, index, prefix, count)


@dataclass
class EncoderState:
    """State of one encoder pass over `B` images of equal grid.

    Attributes:
        sites: what happens at which block.
        grid: patch grid (t, h, w).
        images: the images' numbers in the trace; of frames, those of their videos.
        prefix: class and register tokens in front.
        size: `[B, N]` patches that each token stands for.
        index: `[B, N]` original patch index whose place each token holds.
        seed: the plan's.
        riders: values left by earlier stages.
        previous: hidden states that entered the block before, if this block's site reads them.
        entered: hidden states that entered this block, if the next block's site reads them.
        proportional: whether attention adds log size to key logits from here on.
        revival: dropped tokens that can be reconstructed.
        companions: companion tokens by stage number, `[B, G, D]`.
        signals: what pre-LLM stages asked for, `[B, N, ...]`.
        prefixed: the same of class and register tokens, `[B, P, ...]`, which nobody removes.
        videos: which images are frames of one video, if any are.
        first: `index` as it was at the first block.
        passed: how many blocks were entered.
        trace: where its reductions are noted.
        exits: by depth, see `EncoderRunner.levels`.
    """

    sites: Mapping[int, EncoderSite]
    grid: Grid
    images: list[int]
    prefix: int
    size: Tensor
    index: Tensor
    seed: int
    riders: Mapping[str, Tensor] = field(default_factory=dict)
    previous: Tensor | None = None
    entered: Tensor | None = None
    proportional: bool = False
    revival: Revival | None = None
    companions: dict[int, Tensor] = field(default_factory=dict)
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    prefixed: dict[str, Tensor] = field(default_factory=dict)
    videos: Videos | None = None
    first: Tensor | None = None
    passed: int = 0
    trace: Trace = field(default_factory=Trace)
    exits: dict[int, Exit] = field(default_factory=dict)

    @property
    def untouched(self) -> bool:
        """Whether every patch is still there, in its own place."""
        return self.index is self.first

    @classmethod
    def begin(
        cls,
        sites: Mapping[int, EncoderSite],
        grid: Grid,
        hidden: Tensor,
        prefix: int,
        trace: Trace,
        seed: int,
        videos: Videos | None = None,
    ) -> EncoderState:
        """State at the first block, whose input is `hidden` `[B, P + N, D]`."""
        batch, count = hidden.shape[0], hidden.shape[1] - prefix
        index = torch.arange(count, device=hidden.device).expand(batch, count)
        size = torch.ones(batch, count, device=hidden.device)
        images = trace.begin(batch, grid) if videos is None else videos.begin(trace, grid)
        return cls(
            sites,
            grid,
            images,
            prefix,
            size,
            index,
            seed,
            videos=videos,
            first=index,
            trace=trace,
        )

    def move(self, device: torch.device) -> None:
        """Follow the hidden states to the device of the next block.

        Raises:
            UnsupportedCallError: dropped tokens are still to be reconstructed.
        """
        if self.revival is not None:
            raise UnsupportedCallError(
                f"'{self.revival.strategy}' reconstructs tokens, and the encoder goes on at "
                f"another device ({device}).",
                where=str(self.revival.site),
                remedy="Keep the encoder on one device.",
            )
        untouched = self.untouched
        self.size, self.index = self.size.to(device), self.index.to(device)
        self.first = self.index if untouched else self.first
        for kept in ("riders", "signals", "prefixed", "companions"):
            values = getattr(self, kept)
            setattr(self, kept, {name: value.to(device) for name, value in values.items()})
        for kept in ("previous", "entered"):
            value = getattr(self, kept)
            setattr(self, kept, None if value is None else value.to(device))

    def tokens(self, hidden: Tensor, site: Site, signals: Mapping[str, Tensor]) -> Tokens:
        """The patches of `hidden` `[B, P + N, D]` as a strategy sees them."""
        return Tokens(
            hidden=hidden[:, self.prefix :],
            size=self.size,
            index=self.index,
            grid=self.grid,
            site=site,
            prefix=hidden[:, : self.prefix],
            signals=signals,
            riders=self.riders,
            seed=self.seed,
        )

    def revivable(
        self, site: EncoderSite, dense: Dense, how: Reconstruction, riders: Mapping[str, Tensor]
    ) -> Revival:
        """What is to be remembered of all tokens before a site drops some of them.

        Args:
            site: the site.
            dense: what it drops.
            how: how dropped tokens are reconstructed.
            riders: what it leaves for later stages.
        """
        return Revival(
            how,
            strategy=site.stage.strategy.name,
            site=site.site,
            rows=dense.anchor,
            until=site.site.layer + how.blocks,
            size=self.size,
            index=self.index,
            riders={**self.riders, **riders},
            signals=self.signals,
        )

    def apply(self, tokens: Tokens, part: Part, hidden: Tensor) -> Tensor:
        """Carry out what was decided on the patches and on everything that rides along.

        Args:
            tokens: the patches of `hidden`.
            part: what becomes of them.
            hidden: `[B, P + N, D]`.

        Returns:
            `[B, P + K, D]`.
        """
        left = replace(tokens, riders=self.riders, signals=self.signals).after(part)
        self.riders = left.riders
        if part.dense is None:
            return hidden
        self.size, self.index, self.signals = left.size, left.index, left.signals
        if self.entered is not None:
            earlier = part.dense.take(self.entered[:, self.prefix :])
            self.entered = torch.cat((self.entered[:, : self.prefix], earlier), dim=1)
        if not self.prefix:
            return left.hidden
        return torch.cat((hidden[:, : self.prefix], left.hidden), dim=1)

    def leave(self, depth: int) -> None:
        """Note whose states stand at a depth that is read."""
        revival = self.revival
        restored = revival is not None and revival.reconstruction.restore
        self.exits[depth] = Exit(self.index, revival if restored else None)

    def record(
        self,
        site: Site,
        strategy: str,
        slot: Tensor | None,
        score: Tensor | None = None,
    ) -> None:
        """Note in the trace a reduction that was carried out; frames as one video.

        Args:
            site: where it happened.
            strategy: who decided.
            slot: `[B, N]` slot of every token, -1 where dropped; None if tokens were restored.
            score: `[B, N]` what the choice was made by, if the strategy tells.
        """
        if self.videos is None:
            self.trace.record(site, strategy, self.images, slot, self.index, score)
            return
        _, height, width = self.grid
        for bucket in self.videos.buckets():
            self.trace.record(
                site,
                strategy,
                bucket.images(self.images),
                None if slot is None else bucket.number(slot, self.index.shape[1]),
                bucket.number(self.index, height * width),
                None if score is None else bucket.join(score),
            )

    def of_videos(self, bucket: Bucket) -> EncoderState:
        """The state of a bucket's videos, each as one image of T frames without prefix."""
        _, height, width = self.grid
        return replace(
            self,
            grid=(bucket.frames, height, width),
            images=bucket.images(self.images),
            prefix=0,
            size=bucket.join(self.size),
            index=bucket.number(self.index, height * width),
            riders={name: bucket.join(value) for name, value in self.riders.items()},
            signals={name: bucket.join(value) for name, value in self.signals.items()},
            prefixed={name: bucket.join(value) for name, value in self.prefixed.items()},
            previous=None,
            entered=None if self.entered is None else bucket.join(self.entered[:, self.prefix :]),
            companions={},
            videos=None,
        )

    def key_bias(self, size: Tensor) -> Tensor | None:
        """Log of sizes `[B, N]` to add to key logits, `[B, P + N]` (prefix 0), if it applies."""
        if not self.proportional:
            return None
        return torch.cat((size.new_zeros(size.shape[0], self.prefix), size.log()), dim=1)
