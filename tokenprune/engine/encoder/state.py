"""What one pass through a vision encoder carries from block to block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn.functional import pad

from tokenprune.engine.encoder.members import Members
from tokenprune.engine.encoder.revival import Exit, Revival
from tokenprune.engine.spreading import spread
from tokenprune.engine.stages import EncoderSite, ResolvedStage
from tokenprune.engine.videos import Bucket, Videos
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.dense import Dense, Part, Reconstruction
from tokenprune.interface.records import changed
from tokenprune.interface.signals import WHOLE
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trace import Trace
from tokenprune.ops.keep_step import keep_step_op
from tokenprune.ops.merge_step import merge_step_op


@dataclass
class EncoderState:
    """State of one encoder pass over `B` images of equal grid.

    Attributes:
        sites: what happens at which block.
        grid: patch grid (t, h, w).
        images: the images' numbers in the trace; of frames, those of their videos.
        prefix: class and register tokens in front.
        size: `[B, N]` patches that each token stands for.
        index: `[B, N]` original patch index, or unit, whose place each token holds.
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
        biased: the latest sizes and prefix that a key bias was made of, and that bias.
        sized: the latest sizes of tokens, their prefix, and the sizes of all rows.
        trace: where its reductions are noted.
        exits: by depth, see `EncoderRunner.levels`.
        counted: what the meter was told of pieces, before it is known how many pictures they are.
        members: rows of the units, if these have several; then the grid, sizes, places and signals
            are of units. Once some are gone, the rows that are left stand unit by unit.
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
    biased: tuple[Tensor, int, Tensor] | None = None
    sized: tuple[Tensor, int, Tensor] | None = None
    trace: Trace = field(default_factory=Trace)
    exits: dict[int, Exit] = field(default_factory=dict)
    members: Members | None = None
    counted: list[str] = field(default_factory=list)

    @property
    def untouched(self) -> bool:
        """Whether every patch is still there, in its own place."""
        return self.index is self.first

    @property
    def restoring(self) -> Revival | None:
        """Dropped tokens that are handed on again behind the blocks, so that all need signals."""
        revival = self.revival
        return revival if revival is not None and revival.reconstruction.restore else None

    def revived(self, number: int) -> Revival | None:
        """The dropped tokens that the attention of a block sees, reconstructed; None for none."""
        revival = self.revival
        return revival if revival is not None and number < revival.until else None

    @property
    def complete(self) -> int:
        """Rows of all patches N, without prefix."""
        assert self.first is not None
        return self.first.shape[1] * (1 if self.members is None else self.members.count)

    def units(self, hidden: Tensor) -> Tensor:
        """The tokens of `hidden` `[B, P + R, D]`, members side by side: `[B, K, m * D]`."""
        patches = hidden[:, self.prefix :]
        if self.members is None:
            return patches
        return self.members.beside(self.members.ordered(patches) if self.untouched else patches)

    def means(self, values: Tensor) -> Tensor:
        """Values of rows `[B, R, ...]` as those of tokens, means over members: `[B, K, ...]`."""
        if self.members is None:
            return values
        return self.members.mean(self.members.ordered(values) if self.untouched else values)

    def rows(self, index: Tensor) -> Tensor:
        """The encoder's rows of patches or units `[B, K]`, as they are stored: `[B, R]`."""
        if self.members is None:
            return index
        if index is self.first:
            return torch.arange(self.complete, device=index.device).expand(len(index), -1)
        return self.members.of_units(index)

    def move(self, device: torch.device) -> None:
        """Follow the hidden states to the device of the next block.

        Raises:
            UnsupportedCallError: dropped tokens are still to be reconstructed.
        """
        if self.revival is not None:
            dropped = self.revival.site
            raise UnsupportedCallError(
                f"'{dropped.stage.strategy.name}' reconstructs tokens, and the encoder goes on at "
                f"another device ({device}).",
                where=str(dropped.site),
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
            hidden=self.units(hidden),
            size=self.size,
            index=self.index,
            grid=self.grid,
            site=site,
            prefix=hidden[:, : self.prefix],
            signals=signals,
            riders=self.riders,
            seed=self.seed,
            kind="visual",
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
            site=site,
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
        form = "any" if part.dense is None or self.members is not None else part.dense.form
        # a compiler makes copies by itself where they are read
        if part.dense is not None and form != "any" and not (form == "keep" and is_compiling()):
            return self._step(part, part.dense, hidden)
        left = changed(tokens, riders=self.riders, signals=self.signals).after(part)
        self.riders = left.riders
        if part.dense is None:
            return hidden
        if self.entered is not None:
            earlier = part.dense.take(self.units(self.entered))
            self.entered = self.behind_prefix(self.entered, earlier)
        self.size, self.index, self.signals = left.size, left.index, left.signals
        return self.behind_prefix(hidden, left.hidden)

    def _step(self, part: Part, dense: Dense, hidden: Tensor) -> Tensor:
        """`apply` where tokens are only merged or only dropped: one operation carries all."""
        riders = {**self.riders, **part.riders}
        moved = [name for name in self.signals if name not in WHOLE]
        along = [*riders.values(), *map(self.signals.__getitem__, moved)]
        prefix = self.prefix
        if self.entered is not None:
            along.append(self.entered[:, prefix:])
        # the shapes were looked at where the strategy answered
        anchor, rows, bias = dense.anchor, self.row_sizes, None
        if dense.form == "keep":
            kept: list[Tensor] = keep_step_op(hidden, anchor, rows, self.index, along)
            states, sizes, self.index, *carried = kept
        else:
            weight = None if dense.weight is self.size else dense.weight
            merged: list[Tensor] = merge_step_op(
                hidden, dense.slot, anchor, rows, self.index, weight, along
            )
            states, sizes, bias, self.index, *carried = merged
        if along:
            left = iter(carried)
            self.riders = {name: next(left) for name in riders}
            self.signals = {**self.signals, **{name: next(left) for name in moved}}
            if self.entered is not None:
                self.entered = self.behind_prefix(self.entered, next(left))
        self.size = size = sizes[:, prefix:]
        self.sized = size, prefix, sizes
        if bias is not None:
            self.biased = size, prefix, bias
        return states

    def behind_prefix(self, hidden: Tensor, units: Tensor) -> Tensor:
        """The prefix of `hidden` and units `[B, K, m * D]`, `[B, P + K * m, D]`."""
        rows = units if self.members is None else self.members.apart(units)
        return torch.cat((hidden[:, : self.prefix], rows), dim=1) if self.prefix else rows

    def full(self, hidden: Tensor) -> Tensor:
        """All tokens, dropped ones reconstructed: `[B, P + R, D]` -> `[B, P + R', D]`."""
        assert self.revival is not None
        return self.revival.full(hidden, self.prefix, self.members)

    def restore(self, hidden: Tensor) -> Tensor:
        """Hand on all tokens again, `[B, P + R, D]` -> `[B, P + R', D]`, and end the revival."""
        revival = self.revival
        assert revival is not None
        hidden = self.full(hidden)
        self.size, self.index, self.revival = revival.size, revival.index, None
        self.riders, self.signals = revival.riders, revival.signals
        self.record(revival.site.site, revival.site.stage, None)
        if self.members is None or not self.untouched:
            return hidden
        return spread(hidden, self.members.of_units(self.index), self.prefix, self.complete)

    def revived_rows(self, revival: Revival) -> Tensor:
        """The encoder's rows of all reconstructed tokens, unit by unit: `[B, R']`."""
        return revival.index if self.members is None else self.members.of_units(revival.index)

    def leave(self, depth: int) -> None:
        """Note whose states stand at a depth that is read."""
        revival = self.restoring
        if revival is None:
            rows = None if self.untouched else self.rows(self.index)
            self.exits[depth] = Exit(rows, None, self.members)
            return
        # reconstructed units stand unit by unit, also where none is missing
        whole = revival.index is self.first and self.members is None
        rows = self.revived_rows(revival)
        self.exits[depth] = Exit(None if whole else rows, revival, self.members)

    def record(
        self,
        site: Site,
        stage: ResolvedStage,
        slot: Tensor | None,
        score: Tensor | None = None,
    ) -> None:
        """Note in the trace a reduction that was carried out; frames as one video.

        Args:
            site: where it happened.
            stage: whose strategy decided.
            slot: `[B, N]` slot of every token, -1 where dropped; None if tokens were restored.
            score: `[B, N]` what the choice was made by, if the strategy tells.
        """
        name, number = stage.strategy.name, stage.number
        if self.videos is None:
            self.trace.record(site, name, self.images, slot, self.index, score, number)
            return
        _, height, width = self.grid
        for bucket in self.videos.buckets():
            self.trace.record(
                site,
                name,
                bucket.images(self.images),
                None if slot is None else bucket.number(slot, self.index.shape[1]),
                bucket.number(self.index, height * width),
                None if score is None else bucket.join(score),
                number,
            )

    def of_videos(self, bucket: Bucket) -> EncoderState:
        """The state of a bucket's videos, each as one image of T frames without prefix.

        Members of a unit are side by side in it, as `units` has them.
        """
        _, height, width = self.grid
        return replace(
            self,
            grid=(bucket.frames, height, width),
            images=bucket.images(self.images),
            prefix=0,
            members=None,
            size=bucket.join(self.size),
            index=bucket.number(self.index, height * width),
            riders={name: bucket.join(value) for name, value in self.riders.items()},
            signals={name: bucket.join(value) for name, value in self.signals.items()},
            prefixed={name: bucket.join(value) for name, value in self.prefixed.items()},
            previous=None,
            entered=None if self.entered is None else bucket.join(self.units(self.entered)),
            companions={},
            videos=None,
        )

    def key_bias(self, size: Tensor) -> Tensor | None:
        """Log of sizes `[B, N]` to add to key logits, `[B, P + N]` (prefix 0), if it applies.

        Made once for equal sizes, since blocks without a site ask for the same again.
        """
        if not self.proportional:
            return None
        known = self.biased
        if known is None or known[0] is not size or known[1] != self.prefix:
            self.biased = known = size, self.prefix, pad(self._each(size.log()), (self.prefix, 0))
        return known[2]

    @property
    def row_sizes(self) -> Tensor:
        """`[B, P + R]` patches that each row stands for, 1 for the prefix."""
        known = self.sized
        if known is not None and known[0] is self.size and known[1] == self.prefix:
            return known[2]
        if not self.prefix:
            return self._each(self.size)
        ones = self.size.new_ones(self.size.shape[0], self.prefix)
        return torch.cat((ones, self._each(self.size)), dim=1)

    def _each(self, values: Tensor) -> Tensor:
        """Values of tokens `[B, K]` for each of their rows, stored unit by unit."""
        return values if self.members is None else values.repeat_interleave(self.members.count, 1)
