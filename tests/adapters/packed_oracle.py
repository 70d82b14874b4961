"""Packed towers in loops over units, and as full-length runs in which removed units are hidden."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

import torch
from torch import Tensor

from tests.packed import MEMBERS
from tokenprune.interface.trace import BatchStep, ImageTrace, Trace

Inputs = list[tuple[Tensor, dict[str, Any]]]


@dataclass
class Unit:
    """A unit on its way: where it stands, the states of its members, and how many it is made of."""

    number: int
    states: list[Tensor]
    size: float = 1.0


@dataclass(frozen=True)
class How:
    """What a method does besides choosing units.

    Attributes:
        biased: whether log sizes join the logits behind the first merge.
        stabilise: blocks whose attention sees dropped units, which return at the end; None if not.
        neighbours: kept units that a dropped one follows.
    """

    biased: bool = False
    stabilise: int | None = None
    neighbours: int = 10


def inputs(tower: Any, call: dict[str, Tensor]) -> Inputs:
    """What every block gets in a plain run: states and arguments."""
    found: Inputs = []
    hooks = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs: found.append((args[0].detach(), kwargs)), with_kwargs=True
        )
        for block in tower.blocks
    ]
    with torch.no_grad():
        tower(**call)
    for hook in hooks:
        hook.remove()
    return found


def taken(tower: Any, call: dict[str, Tensor]) -> dict[str, Tensor]:
    """A call as a tower takes it, by its own name for rows: GLM's takes frames as pictures."""
    _, rows, *_ = inspect.signature(type(tower).forward).parameters
    call = {rows if name == "hidden_states" else name: value for name, value in call.items()}
    if not hasattr(tower, "downsample"):
        return call
    frames = call["grid_thw"].repeat_interleave(call["grid_thw"][:, 0], dim=0)
    return {**call, "grid_thw": torch.cat((torch.ones_like(frames[:, :1]), frames[:, 1:]), dim=1)}


def order(tower: Any, grids: Tensor) -> list[int]:
    """Numbers of the units as they stand in the sequence."""
    if not hasattr(tower, "window_size"):
        return list(range(int(grids.prod(-1).sum()) // MEMBERS))
    from transformers.vision_utils import get_vision_window_index

    sizes = (tower.spatial_merge_size, tower.window_size, tower.patch_size)
    return list(get_vision_window_index(grids, *sizes)[0].tolist())


class Loop:
    """One run of a tower over the units of a call, in loops.

    Args:
        tower: the tower.
        call: its arguments.
        trace: of the pruned run, which says what was decided.
        how: see `How`.
        first: number in the trace of the first picture of this run.
    """

    def __init__(
        self, tower: Any, call: dict[str, Tensor], trace: Trace, how: How, first: int = 0
    ) -> None:
        self.tower, self.how, self.trace, self.first = tower, how, trace, first
        self.given = inputs(tower, taken(tower, call))
        self.order = order(tower, call["grid_thw"])
        self.counts = (call["grid_thw"].prod(-1) // MEMBERS).tolist()
        rows = self.given[0][0]
        self.units = [
            Unit(number, list(rows[at * MEMBERS : (at + 1) * MEMBERS]))
            for at, number in enumerate(self.order)
        ]
        self.merged = False
        self.lost: dict[int, tuple[Unit, list[int]]] = {}
        self.anchors: dict[int, Unit] = {}
        self.dropped_at = 0

    def run(self) -> list[Tensor]:
        """`[U, d]` of the last exit and of those between blocks; zeros for what is gone."""
        levels = []
        exits = list(getattr(self.tower, "deepstack_visual_indexes", ()))
        with torch.no_grad():
            for number, block in enumerate(self.tower.blocks):
                self.block(block, number)
                if number in exits:
                    level = self.tower.deepstack_merger_list[exits.index(number)]
                    levels.append(self.exit(level, self.whole()))
            return [self.exit(self.joined, self.whole()), *levels]

    def joined(self, states: Tensor) -> Tensor:
        """A row of the members `[m, D]` of a unit, `[1, d]`."""
        if not hasattr(self.tower, "downsample"):
            normed = self.tower.norm(states) if hasattr(self.tower, "norm") else states
            return self.tower.merger(normed)
        side = self.tower.spatial_merge_size
        square = self.tower.post_layernorm(states).view(side, side, -1)
        weight, bias = self.tower.downsample.weight, self.tower.downsample.bias
        row = torch.einsum("hwc,dchw->d", square, weight) + bias
        return self.tower.merger(row[None])

    def block(self, block: Any, number: int) -> None:
        """Drop in front of the block, or attend, reduce, and go through the MLP."""
        sites = [step for step in self.trace.records if step.site.stage == "encoder"]
        mine = range(self.first, self.first + len(self.counts))
        sites = [step for step in sites if set(step.images) <= set(mine)]
        steps = [step for step in sites if step.site.layer == number and step.slot is not None]
        if self.how.stabilise is not None:
            for step in steps:
                self.drop(step)
        attending = self.units
        if self.lost and number < self.dropped_at + int(self.how.stabilise or 0):
            attending = self.whole()
        self.attention(block, number, attending)
        if self.how.stabilise is None:
            for step in steps:
                self.merge(step)
        for unit in self.units:
            unit.states = [s + block.mlp(block.norm2(s[None]))[0] for s in unit.states]

    def attention(self, block: Any, number: int, seen: list[Unit]) -> None:
        """The attention half; units attend within the segment in which they stand."""
        arguments = self.given[number][1]
        cos, sin = arguments["position_embeddings"]
        places = {unit.number: self.order.index(unit.number) for unit in seen}
        borders = (arguments["cu_seqlens"] // MEMBERS).tolist()
        heads = block.attn.num_heads
        made: dict[int, list[Tensor]] = {}
        keys: dict[int, tuple[list[Tensor], list[Tensor], list[Tensor]]] = {}
        for unit in seen:
            parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            for member, state in enumerate(unit.states):
                row = places[unit.number] * MEMBERS + member
                (joint,) = projected(block.attn, block.norm1(state[None]))
                query, key, value = joint.view(3, heads, -1)
                query, key = normed(block.attn, query, key)
                parts[0].append(turned(query, cos[row], sin[row]))
                parts[1].append(turned(key, cos[row], sin[row]))
                parts[2].append(value)
            keys[unit.number] = parts
        for start, end in pairwise(borders):
            inside = [unit for unit in seen if start <= places[unit.number] < end]
            if not inside:
                continue
            key = torch.stack([row for unit in inside for row in keys[unit.number][1]])
            value = torch.stack([row for unit in inside for row in keys[unit.number][2]])
            sizes = [unit.size if self.merged and self.how.biased else 1.0 for unit in inside]
            # sizes are float32, and so are their logs
            bias = torch.tensor(sizes).log().repeat_interleave(MEMBERS)
            for unit in inside:
                made[unit.number] = []
                for query in keys[unit.number][0]:
                    logits = (key * query).sum(-1) / query.shape[-1] ** 0.5 + bias[:, None]
                    attended = (logits.softmax(0)[..., None] * value).sum(0)
                    made[unit.number].append(block.attn.proj(attended.flatten()[None])[0])
        for unit in self.units:
            added = made[unit.number]
            unit.states = [s + more for s, more in zip(unit.states, added, strict=True)]

    def picture(self, number: int) -> list[Unit]:
        """What is left of a picture of the trace, in raster order."""
        first = self.before(number)
        span = range(first, first + self.counts[number - self.first])
        return sorted((u for u in self.units if u.number in span), key=lambda u: u.number)

    def before(self, number: int) -> int:
        """Units of this run in front of a picture of the trace."""
        return int(sum(self.counts[: number - self.first]))

    def merge(self, step: BatchStep) -> None:
        """Carry out a reduction member by member."""
        assert step.slot is not None
        gone, left = set(), []
        for row, number in enumerate(step.images):
            tokens, slots = self.picture(number), step.slot[row].tolist()
            first = self.before(number)
            gone |= {id(unit) for unit in tokens}
            for slot, anchor in enumerate(step.anchor[row].tolist()):
                group = [unit for unit, at in zip(tokens, slots, strict=True) if at == slot]
                size = sum(unit.size for unit in group)
                states = [
                    sum(unit.size * unit.states[member] for unit in group) / size
                    for member in range(MEMBERS)
                ]
                left.append(Unit(first + anchor, states, size))
        rest = [unit for unit in self.units if id(unit) not in gone]
        self.units = sorted([*rest, *left], key=lambda unit: self.order.index(unit.number))
        self.merged = True

    def drop(self, step: BatchStep) -> None:
        """Drop, and remember which kept units each dropped one follows, frame by frame."""
        assert step.slot is not None
        self.dropped_at = step.site.layer
        for row, number in enumerate(step.images):
            tokens, slots = self.picture(number), step.slot[row].tolist()
            frame = len(tokens) // self.trace.grids[number][0]
            for at, (unit, slot) in enumerate(zip(tokens, slots, strict=True)):
                if slot >= 0:
                    self.anchors[unit.number] = Unit(unit.number, list(unit.states))
                    continue
                peers = [
                    peer
                    for other, (peer, kept) in enumerate(zip(tokens, slots, strict=True))
                    if kept >= 0 and other // frame == at // frame
                ]
                mine = torch.cat(unit.states)
                far = [float((torch.cat(peer.states) - mine).norm()) for peer in peers]
                near = sorted(range(len(peers)), key=lambda at: (far[at], at))
                self.lost[unit.number] = (
                    unit,
                    [peers[one].number for one in near[: self.how.neighbours]],
                )
        self.units = [unit for unit in self.units if unit.number not in self.lost]

    def whole(self) -> list[Unit]:
        """All units, dropped ones moved like the mean of those they follow."""
        now = {unit.number: unit for unit in self.units}
        made = []
        for number, (unit, near) in self.lost.items():
            states = []
            for member, state in enumerate(unit.states):
                moves = [now[one].states[member] - self.anchors[one].states[member] for one in near]
                states.append(state + sum(moves) / len(near))
            made.append(Unit(number, states))
        return sorted([*self.units, *made], key=lambda unit: self.order.index(unit.number))

    def exit(self, module: Any, units: list[Unit]) -> Tensor:
        """A row for every unit of the call."""
        made = {unit.number: module(torch.stack(unit.states))[0] for unit in units}
        nothing = torch.zeros_like(next(iter(made.values())))
        return torch.stack([made.get(number, nothing) for number in range(sum(self.counts))])


def projected(attention: Any, states: Tensor) -> Tensor:
    """Query, key and value side by side, which some towers make by one projection.

    Heads of key and value that several heads of the query share are there for each of these.
    """
    if hasattr(attention, "qkv"):
        joint: Tensor = attention.qkv(states)
        groups = getattr(attention, "num_key_value_groups", 1)
        if groups == 1:
            return joint
        width = attention.head_dim
        heads = joint.view(len(joint), -1, width)
        count = attention.num_heads // groups
        rest = [heads[:, attention.num_heads + at] for at in range(2 * count)]
        several = [one for one in rest for _ in range(groups)]
        return torch.cat((heads[:, : attention.num_heads].flatten(1), *several), dim=1)
    return torch.cat([part(states) for part in (attention.q, attention.k, attention.v)], dim=-1)


def turned(state: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads `[H, d]` of one row, rotated in float32 as the towers do."""
    first, second = state.float().chunk(2, dim=-1)
    made = state.float() * cos.float() + torch.cat((-second, first), dim=-1) * sin.float()
    return made.to(state.dtype)


def normed(attention: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Heads `[..., d]`, normed where the attention has norms for them."""
    if not hasattr(attention, "q_norm"):
        return query, key
    return attention.q_norm(query), attention.k_norm(key)


@contextmanager
def hidden_units(tower: Any, *passes: tuple[Mapping[int, Tensor], Tensor]) -> Iterator[None]:
    """Hide units as keys, in runs over all units.

    Args:
        tower: the tower.
        passes: for every pass through it by turns, by block `[U]` bool, the units that its
            attention doesn't see, and (t, h, w) in patches.
    """
    now: list[tuple[Mapping[int, Tensor], Tensor]] = []
    waiting = cycle([(gone, torch.tensor(order(tower, grids))) for gone, grids in passes])

    def masked(number: int, attention: Any) -> Any:
        def forward(states: Tensor, cu_seqlens: Tensor, **kwargs: Any) -> Tensor:
            gone, standing = now[-1]
            count = states.shape[0]
            heads = projected(attention, states).view(count, 3, attention.num_heads, -1)
            query, key, value = heads.permute(1, 2, 0, 3)
            query, key = normed(attention, query, key)
            query, key = (turned(part, *kwargs["position_embeddings"]) for part in (query, key))
            own = torch.eye(count, dtype=torch.bool)
            segment = torch.bucketize(torch.arange(count), cu_seqlens[1:].long(), right=True)
            lost = gone[number][standing].repeat_interleave(MEMBERS)
            seen = (segment[:, None] == segment) & (~lost | own)
            logits = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
            weights = logits.masked_fill(~seen, -math.inf).softmax(-1)
            return attention.proj((weights @ value).transpose(0, 1).flatten(1))

        return forward

    hook = tower.register_forward_pre_hook(lambda *_: now.append(next(waiting)))
    parts = [block.attn for block in tower.blocks]
    for number, attention in enumerate(parts):
        attention.__dict__["forward"] = masked(number, attention)
    try:
        yield
    finally:
        hook.remove()
        for attention in parts:
            del attention.__dict__["forward"]


def removed(images: Sequence[ImageTrace], blocks: int) -> dict[int, Tensor]:
    """By block, `[U]` bool: units that had left before it, where strategies only drop.

    Args:
        images: of one pass.
        blocks: how many, the place behind the last one counted in.
    """
    found = {}
    for block in range(blocks):
        parts = []
        for image in images:
            steps = [s for s in image.steps if s.site.stage == "encoder" and s.site.layer < block]
            lost = torch.ones(image.patches, dtype=torch.bool)
            lost[steps[-1].anchor if steps else slice(None)] = False
            parts.append(lost)
        found[block] = torch.cat(parts)
    return found
