"""What is asked of the pictures of a family in the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.calls import Arguments, Written
from tokenprune.interface.places import Places
from tokenprune.interface.specs import Tower
from tokenprune_adapters.shared.arguments import named
from tokenprune_adapters.transformers import family_towers
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.family_rows import Family
from tokenprune_adapters.transformers.mllm import TransformersMllm
from tokenprune_adapters.transformers.tile_runs import tiles_of


class FamilyPictures(TransformersMllm):
    """The part of `FamilyAdapter` that is about pictures.

    Class attributes:
        family: what is its own.
        made: attribute of what the methods for pictures put out, with the features.
    """

    family: ClassVar[Family]
    made: ClassVar[str] = names.POOLED

    def places(
        self, modality: str, args: tuple[Any, ...], kwargs: Arguments, made: Any
    ) -> list[Places]:
        """The places of every picture, read from features and arguments."""
        given = self._given(modality, args, kwargs)
        return self.family.pictures[modality].read(self.spec().core, given, self._rows(made))

    def tiled(self, modality: str) -> bool:
        """Whether the core is given tiles of such pictures."""
        return self.family.pictures[modality].begins is not None

    def whole_pictures(
        self, modality: str, shown: list[Places], prompts: Tensor | None
    ) -> list[Places]:
        """The user's pictures; where the core is given tiles, the prompts tell whose they are."""
        kind = self.family.pictures[modality]
        begins = kind.begins
        if begins is None or prompts is None or len(shown) < 2:
            return shown
        placeholder = self.spec().placeholders[modality]
        sizes = tiles_of(begins, prompts, placeholder, [one.units for one in shown])
        waiting = iter(shown)
        return [Places.of_tiles([*islice(waiting, size)], kind.overview) for size in sizes]

    def overlaps(self, modality: str, args: tuple[Any, ...], kwargs: Arguments) -> str | None:
        """Told from the arguments, where the family's pictures may overlap."""
        told = self.family.pictures[modality].overlaps
        return None if told is None else told(self.spec().core, self._given(modality, args, kwargs))

    def may_overlap(self, modality: str) -> str | None:
        """Told from the config, where the family's pictures may overlap."""
        told = self.family.pictures[modality].may_overlap
        return None if told is None else told(self.spec().core)

    def frames(
        self, modality: str, args: tuple[Any, ...], kwargs: Arguments
    ) -> Sequence[int] | None:
        """How many pictures each clip is for the tower, read from the arguments."""
        told = self.family.pictures[modality].frames
        return None if told is None else told(self._given(modality, args, kwargs))

    def write_units(
        self, modality: str, units: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """Some units in the form in which the projector takes rows of pictures."""
        tower = self.family.pictures[modality].tower
        assert tower is not None
        assert tower.shown is not None
        return tower.shown(self.spec().core, units)

    def features(self, made: Any) -> Tensor:
        """All features, whatever the form in which the core has them."""
        rows = self._rows(made)
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def with_features(self, made: Any, features: Tensor) -> Any:
        """The core's own form, with other features."""
        return _replaced(made, self.made, features)

    def spread(self, tower: Tower, output: Any, whole: Callable[[Tensor, int], Tensor]) -> Any:
        """A tower's outputs with rows for all patches in the states that are read."""
        return family_towers.spread(tower, output, whole)

    def _given(self, modality: str, args: tuple[Any, ...], kwargs: Arguments) -> dict[str, Any]:
        """The arguments by name of the method that makes the features of such pictures."""
        method = self.family.pictures[modality].method
        return named(getattr(type(self.spec().core), method), args, kwargs)

    def _rows(self, made: Any) -> list[Tensor]:
        """The features of every picture or tile, `[L, d]`."""
        return [one.reshape(-1, one.shape[-1]) for one in _held(made, self.made)]


def _held(made: Any, name: str) -> Any:
    """The features of each picture, `[N, D]`, as a tensor or a sequence.

    Args:
        made: what the method put out: an output that holds them, or a tensor or a list.
        name: attribute of an output that holds them.

    Raises:
        UnsupportedModelError: it is neither.
    """
    if isinstance(made, Tensor | list):
        return made
    found = getattr(made, name, None)
    if found is None:
        raise UnsupportedModelError(
            f"the method for pictures put out {type(made).__name__} without {name}.",
            where="features of pictures",
            remedy=f"An output with {name}, or a tensor or list of features, can be read.",
        )
    return found


def _replaced(made: Any, name: str, features: Tensor) -> Any:
    """What the method put out, in its own form, with other features `[sum of N, D]`."""
    before = _held(made, name)
    parts = torch.split(features, [one.numel() // one.shape[-1] for one in before])
    after = [part.view(one.shape) for part, one in zip(parts, before, strict=True)]
    form = torch.stack(after) if isinstance(before, Tensor) else type(before)(after)
    if before is made:
        return form
    setattr(made, name, form)
    return made
