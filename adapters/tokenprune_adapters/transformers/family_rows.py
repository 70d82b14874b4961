"""What a row of `family_table` says: how a family differs from others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenprune.interface.calls import Arguments, Refused
from tokenprune_adapters.transformers.family_towers import Followed
from tokenprune_adapters.transformers.picture_places import Frames, Read
from tokenprune_adapters.transformers.tile_runs import Begins

TOLD_APART = "`encoder` without restoring, and `pre_llm` by the tower's signals"
"""What can't be had of units that can't be told apart behind their tower."""
FRAMES = "no strategies that span frames, which its tower sees one by one"
"""What a tower with pieces can't do with clips."""
HEARS = "sound stays"
"""What users of a family that hears should know."""


@dataclass(frozen=True)
class Pictures:
    """A kind of picture of a family.

    Attributes:
        method: method of the core that makes the features.
        placeholder: names of the setting with the placeholder's id, the first that is there counts.
        pixels: arguments that bring such pictures.
        read: how the places are read from what the method made.
        tower: the tower that they come through; None if it isn't followed.
        frames: how many pictures each clip is, where a packed tower sees clips as such.
        begins: tells which tiles begin a picture, where `read` tells tiles.
        overview: which tile of such a picture shows it whole.
        overlaps: tells from a method's arguments why a token shows several units of the tower;
            None where `tower` says it of all pictures, or none does.
        may_overlap: the same of pictures that the config allows.
        unfollowed: why they can't be followed through a tower, if they aren't.
    """

    method: str
    placeholder: tuple[str, ...]
    pixels: tuple[str, ...]
    read: Read
    tower: Followed | None = None
    frames: Frames | None = None
    begins: Begins | None = None
    overview: int = -1
    overlaps: Callable[[Any, Arguments], str | None] | None = None
    may_overlap: Callable[[Any], str | None] | None = None
    unfollowed: str = ""


@dataclass(frozen=True)
class Family:
    """What differs between families.

    Attributes:
        pictures: kinds of pictures, in the order in which the core asks for them.
        language: dotted name below the core of the LLM without head.
        apart: whether position ids count time, height and width apart.
        masks: whether the core makes the layers' masks.
        per_token: further arguments of the LLM or its layers with an entry for each token.
        towers: names of the encoder adapters of its towers; None if none is followed.
        behind: whether released models have blocks behind the last one that is read.
        joins: see `MllmSpec.joins`.
        renumbers: whether survivors can be renumbered, where `apart` doesn't forbid it already.
        full: masks that may hide nothing where they are given, and what to do about it.
        counts: whether attention computes with position ids, in slots, where it is given some.
        placed: see `MllmSpec.placed`; then no kernel of packed samples may run its attention.
        whole: values of arguments for which the LLM keeps the states of all its tokens.
        notes: what else its users should know of its pictures, in words.
    """

    pictures: Mapping[str, Pictures]
    language: str = "language_model"
    apart: bool = False
    masks: bool = False
    per_token: Mapping[str, int] = field(default_factory=dict)
    towers: tuple[str, ...] | None = None
    behind: bool = True
    joins: bool = False
    renumbers: bool = True
    counts: bool = False
    full: Mapping[str, Refused] = field(default_factory=dict)
    placed: bool = False
    whole: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def limits(self) -> tuple[str, ...]:
        """What can't be done with its pictures, in words."""
        found, unfollowed = list[str](), dict[str, list[str]]()
        for kind, one in self.pictures.items():
            if one.tower is None:
                unfollowed.setdefault(one.unfollowed and f": {one.unfollowed}", []).append(kind)
            elif one.tower.blended is not None:
                why = one.tower.blended.rstrip(".")
                found.append(f"{TOLD_APART} ({kind}), at the call: {why}")
            elif one.tower.frames:
                found.append(f"`encoder` ({kind}): {FRAMES}")
        told = "`encoder`: tokens aren't followed through the tower"
        lines = (f"{told} ({', '.join(kinds)}){why}" for why, kinds in unfollowed.items())
        return (*lines, *found, *self.notes)
