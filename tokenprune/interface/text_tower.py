"""The text half of a dual encoder, by which strategies compare visual tokens with the question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class TowerChoice:
    """What a plan says of a text tower.

    Attributes:
        target: folder or hub name of the dual encoder.
        tokenizer: folder or hub name of the multimodal LLM's own tokenizer, which turns the ids of
            the question into words; None for where the model was loaded from.
    """

    target: str
    tokenizer: str | None = None


class TextTower(ABC):
    """A text tower, and the way of visual tokens into the space that it shares with pictures.

    Plugins register the class (`register_text_towers`).

    Class attributes:
        name: what listings call it.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def load(cls, target: str) -> TextTower | None:
        """The tower of a dual encoder, on the CPU; None if it is of another kind than this class's.

        Args:
            target: folder or hub name.

        Raises:
            CheckpointError: it is missing or damaged.
        """

    @classmethod
    def files(cls, target: str) -> Sequence[Path]:
        """What `load` reads, by which records tell towers apart; none of another kind of target.

        Default: all files of a folder of that name.

        Args:
            target: folder or hub name.
        """
        return [path for path in Path(target).glob("**/*") if path.is_file()]

    @property
    @abstractmethod
    def width(self) -> int:
        """Channels D of the visual tokens that `project` takes."""

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """What holds its weights; the engine puts it on the model's device."""

    @abstractmethod
    def project(self, hidden: Tensor) -> Tensor:
        """Visual tokens `[B, N, D]` in the common space, float32 `[B, N, E]`."""

    @abstractmethod
    def encode(self, texts: Sequence[str], *, cut: bool) -> list[Tensor]:
        """Texts in the common space, float32 `[M, E]` each, not normalised.

        Args:
            texts: the texts.
            cut: whether a text is cut to the tower's length, M = 1; else it is read in M pieces of
                that length, each alone.
        """
