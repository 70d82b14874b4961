"""A model as data: what an adapter says of an encoder or of a multimodal LLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from tokenprune.interface.calls import ArgumentNames, Refused
from tokenprune.interface.signals import (
    BLOCK_VIEWS,
    CLASS_VIEWS,
    LLM_VIEWS,
    Companions,
    TowerSpace,
    View,
)
from tokenprune.interface.sites import Grid


@dataclass(frozen=True)
class Demand:
    """What the values of a call's arguments have to fulfil, without looking at them yet.

    Attributes:
        fulfilled: bool scalar `[]`.
        problem: what is wrong if it is False.
        remedy: what would be right.
    """

    fulfilled: Tensor
    problem: str
    remedy: str


@dataclass(frozen=True)
class EncoderSpec:
    """A vision encoder as data.

    Attributes:
        entry: the module whose forward is one pass over images; per-call state starts there.
        blocks: the transformer blocks, in order.
        used: how many of the blocks feed the output that is read (LLaVA's feature layer).
        prefix: number of class and register tokens in front of the patches.
        class_token: whether the first prefix token is a class token.
        grid: the default patch grid (t, h, w).
        width: D, channels of a token.
        passes: methods of `entry` that run all blocks and give what is left of the tokens, the
            outermost first; each is a pass where it is called.
        refused: methods of `entry` whose results have no place for removed tokens, and which run
            past what is read of blocks; and what is to be called instead.
        packed: whether all pictures of a call are one sequence of rows, see `interface.packed`;
            tokens are units then: `grid` is a nominal one, since pictures have any size, and
            `width` that of the members of a unit side by side.
        paired: whether a text tower can share a space with its tokens (CLIP).
        exits: of a packed encoder, the modules that make one row of every unit `[R, D]` ->
            `[U, d]`, behind the last block or between blocks. Rows of removed units are zeros.
        caller: the module that runs `entry` by another method than a call, and hands on to it what
            it is given by name; None where `entry` is called itself.
    """

    entry: nn.Module
    blocks: Sequence[nn.Module]
    used: int
    prefix: int
    class_token: bool
    grid: Grid
    width: int
    passes: Sequence[str] = ("forward",)
    refused: Mapping[str, str] = field(default_factory=dict)
    packed: bool = False
    paired: bool = False
    exits: Sequence[nn.Module] = ()
    caller: nn.Module | None = None

    @property
    def supplies(self) -> frozenset[type[View]]:
        """What signals of this encoder can be computed from."""
        if self.packed:
            return BLOCK_VIEWS - {Companions}
        found = BLOCK_VIEWS | CLASS_VIEWS if self.class_token else BLOCK_VIEWS
        return found | {TowerSpace} if self.paired else found


@dataclass(frozen=True)
class Tower:
    """A vision tower whose tokens are followed into the prompt.

    The tower sees *pieces*: images, tiles, crops or frames, a row of its batch each. What it hands
    on has a row for every patch, zeros for those that were removed, so that the model's own code
    arranges the pieces as ever.

    Attributes:
        module: the module whose outputs the core reads.
        levels: how many blocks are in front of each of the states that are read, ascending.
        cut: leading rows of a piece that are no units: class tokens.
        side: rows and columns of patches that become one unit.
        blended: why units can't be told apart behind the tower, as a sentence; None if they can.
        projector: the module that makes a row `[n, U, d_llm]` of every unit's row of every piece,
            class tokens in front if the model has them there; it is run on the units that are left.
            None where it arranges rows itself. Of a packed tower, one that makes rows of all units,
            `[U, d_llm]`, of all rows `[R, D]` or `[1, R, D]`; see `MllmAdapter.write_units`.
        frames: whether pieces are frames of clips, which its blocks see one by one.
        encoder: name of its adapter; None for the first that claims its class.
    """

    module: nn.Module
    levels: tuple[int, ...]
    cut: int = 0
    side: int = 1
    blended: str | None = None
    projector: nn.Module | None = None
    frames: bool = False
    encoder: str | None = None

    @property
    def used(self) -> int:
        """Blocks that feed what is read."""
        return self.levels[-1]


@dataclass(frozen=True)
class Modality:
    """A kind of picture whose features one method of the core makes, at the LLM's width.

    Attributes:
        method: name of the method.
        placeholder_id: token id that stands for one of its features in the prompt.
        tower: where its features come from; None if tokens can't be followed through it, which
            leaves stages behind it.
        unfollowed: why they can't, as the end of a sentence; empty if nobody tried yet.
    """

    method: str
    placeholder_id: int
    tower: Tower | None = None
    unfollowed: str = ""


@dataclass(frozen=True)
class MllmSpec:
    """A multimodal LLM as data.

    Attributes:
        core: the module that gets the prompt's token ids and calls tower, projector and LLM.
        language_model: the LLM without head.
        layers: its decoder layers.
        placeholder_id: token id that stands for one visual token of an image in the prompt.
        names: what the library calls the user's arguments.
        supplies: what signals of this LLM can be computed from.
        tower: the vision tower, whose own adapter is found by class; None if tokens can't be
            followed through tower and projector, which leaves stages behind them.
        projector: the module between tower and LLM, called with `[n, N, D]` once a forward.
        used: how many of the tower's blocks feed the projector; None if several depths do, which
            allows decoder stages only.
        cut: leading tokens that the model takes off the tower's output before the projector.
        modalities: for a model without `tower`, its kinds of pictures by name, in the order in
            which the core asks for their features.
        joins: for such a model, whether the pictures of a prompt may be the frames of one video:
            a model that isn't told of videos, and sees each of them as one map of one size.
        settings: names of the settings that `used` and `cut` come from, by these two words.
        fixed: arguments of a call that choose other features; given ones must have these values.
        refused: arguments of the core that can't be served, by name.
        refused_generation: arguments and settings of `generate` that can't be served, by name.
        refused_methods: methods of the model that can't be served, by name.
        per_token: on which axis the tokens stand in further arguments of the LLM and its layers
            that have an entry for each token, by name.
        window: sequence length up to which the layers' sliding window hides nothing.
        windows: sliding window of every layer, None for none; empty if no layer has one. Without
            `masks`, the LLM sees one way, and the engine makes the masks of a shortened sequence.
        masks: whether the core makes the layers' masks, so that it has to be told of a short
            cache.
        base: the first layer with keys and values, whose cache the LLM takes for its length.
        injections: methods of the LLM that add per-token rows behind a layer.
        added: names in `LlmCall.per_token` of rows `[B, T, D]` that the LLM adds by itself to what
            it calls layers with, by layer. Behind a cut `write_llm` isn't given them, and the
            engine adds what is left of them.
        flat_layers: layers that take masks `[B, T]` only, and none behind a cache.
        chooses: how many keys layers see at most that choose blocks of them, among the tokens that
            are left; None where none does.
        partial: whether the LLM may drop states that nobody asked it for; `write_llm` forbids it.
        placed: whether layers compute with position ids beside their rotary rows, so that they get
            those of the tokens that are left.
        renumbers: why survivors can't be renumbered, as a sentence; None if they can.
        fixed_layers: why a stage can't stand in front of a layer, as a sentence, by layer.
        first_id: token id of the mark that tokenizers put in front of a text (BOS); None if the
            family doesn't tell.
        special_ids: token ids that are never pruned as text; None if the family doesn't tell, and
            plans with `keep_text` are refused then.
        sound_ids: token ids that stand for sound, which is neither visual nor text and stays.
        prepares: method of the model in which `generate` makes the arguments of a forward, and of
            padding masks such for caches of fixed length; None without one.
    """

    core: nn.Module
    language_model: nn.Module
    layers: Sequence[nn.Module]
    placeholder_id: int
    names: ArgumentNames
    supplies: frozenset[type[View]] = LLM_VIEWS
    tower: nn.Module | None = None
    projector: nn.Module | None = None
    used: int | None = None
    cut: int = 0
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    joins: bool = False
    settings: Mapping[Literal["used", "cut"], str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, Refused] = field(default_factory=dict)
    refused_generation: Mapping[str, Refused] = field(default_factory=dict)
    refused_methods: Mapping[str, Refused] = field(default_factory=dict)
    per_token: Mapping[str, int] = field(default_factory=dict)
    window: int | None = None
    windows: Sequence[int | None] = ()
    masks: bool = False
    base: int = 0
    injections: Sequence[str] = ()
    added: Mapping[int, str] = field(default_factory=dict)
    flat_layers: frozenset[int] = frozenset()
    chooses: int | None = None
    partial: bool = False
    placed: bool = False
    renumbers: str | None = None
    fixed_layers: Mapping[int, str] = field(default_factory=dict)
    first_id: int | None = None
    special_ids: frozenset[int] | None = None
    sound_ids: frozenset[int] = frozenset()
    prepares: str | None = None

    def unhidden(self, length: int) -> str:
        """Why a shortened sequence isn't the full one with removed tokens hidden as keys.

        Args:
            length: tokens of the full one.

        Returns:
            The reason, as a clause; empty where the two are equal.
        """
        if self.flat_layers:
            return (
                "layers with linear attention or convolutions can't hide a token: the shortened "
                "prompt is what is meant"
            )
        if self.chooses is not None and length > self.chooses:
            return (
                f"layers choose blocks of {self.chooses} keys, and blocks are of the tokens that "
                f"are left: of {length} tokens, the shortened prompt is what is meant"
            )
        return ""

    @property
    def placeholders(self) -> Mapping[str, int]:
        """Token ids that stand for visual tokens, by kind of picture."""
        if not self.modalities:
            return {"image": self.placeholder_id}
        return {name: one.placeholder_id for name, one in self.modalities.items()}
