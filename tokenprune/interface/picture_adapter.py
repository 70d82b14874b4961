"""What an adapter of a multimodal LLM tells of pictures and of their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tokenprune.interface.calls import Arguments, Written
from tokenprune.interface.places import Places
from tokenprune.interface.specs import Tower


class PictureAdapter:
    """Methods about pictures; an adapter has those that its spec asks for."""

    def places(
        self, modality: str, args: tuple[Any, ...], kwargs: Arguments, made: Any
    ) -> list[Places]:
        """The places of every picture, in prompt order; needed where there are modalities.

        Args:
            modality: kind of the pictures.
            args: positional arguments of the method that made their features.
            kwargs: its keyword arguments.
            made: what it returned.
        """
        raise NotImplementedError(f"{type(self).__name__} has no modalities")

    def tiled(self, modality: str) -> bool:
        """Whether `whole_pictures` may put several pictures of a kind together."""
        return False

    def whole_pictures(
        self, modality: str, shown: list[Places], prompts: Tensor | None
    ) -> list[Places]:
        """The user's pictures, where `places` could tell their tiles only.

        Args:
            modality: kind of the pictures.
            shown: what `places` told, in prompt order.
            prompts: token ids `[B, T]`, beams of a prompt in rows of their own; None where none
                are known.
        """
        return shown

    def overlaps(self, modality: str, args: tuple[Any, ...], kwargs: Arguments) -> str | None:
        """Why units of a call's pictures can't be told apart behind their tower, as a sentence.

        Asked before any of them is encoded; None if they can, or where only `Places.blended` tells.

        Args:
            modality: kind of the pictures.
            args: positional arguments of the method that makes their features.
            kwargs: its keyword arguments.
        """
        return None

    def may_overlap(self, modality: str) -> str | None:
        """The same of pictures that a call may bring, told from the model's config."""
        return None

    def frames(
        self, modality: str, args: tuple[Any, ...], kwargs: Arguments
    ) -> Sequence[int] | None:
        """How many pictures each clip is, where a packed tower is given frames one by one.

        None where it is told of clips, or where these are pictures.

        Args:
            modality: kind of the pictures.
            args: positional arguments of the method that makes their features.
            kwargs: its keyword arguments.
        """
        return None

    def write_units(
        self, modality: str, units: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """The arguments of the projector behind a packed tower, for some units instead of all.

        Needed where `Tower.projector` of a packed tower is given.

        Args:
            modality: kind of the pictures.
            units: `[K, m, D]` rows of the members of each, of which it is to make `[K, d_llm]`.
            args: positional arguments for all of them, the rows first.
            kwargs: keyword arguments.
        """
        raise NotImplementedError(f"{type(self).__name__} has no projector behind a packed tower")

    def features(self, made: Any) -> Tensor:
        """All features that a method of a modality made, in prompt order, `[M, d_llm]`."""
        raise NotImplementedError(f"{type(self).__name__} has no modalities")

    def with_features(self, made: Any, features: Tensor) -> Any:
        """What such a method made, with other features `[M, d_llm]` in the same form."""
        raise NotImplementedError(f"{type(self).__name__} has no modalities")

    def spread(self, tower: Tower, output: Any, whole: Callable[[Tensor, int], Tensor]) -> Any:
        """What a followed tower put out, with rows for all patches in the states that are read.

        Needed where `Modality.tower` is given.

        Args:
            tower: the tower.
            output: what its module returned.
            whole: gives states `[n, P + N, D]` for those of the tokens left behind so many blocks.
        """
        raise NotImplementedError(f"{type(self).__name__} follows no tower")

    def narrow_injection(
        self, method: str, columns: Tensor, args: tuple[Any, ...], kwargs: Arguments
    ) -> Written:
        """The arguments of one of `MllmSpec.injections` for fewer tokens.

        Args:
            method: its name.
            columns: `[B, K]` tokens of the LLM's input that are left.
            args: positional arguments; per-token ones are of the LLM's input.
            kwargs: keyword arguments.
        """
        raise NotImplementedError(f"{type(self).__name__} has no injections")
