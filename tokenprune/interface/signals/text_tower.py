"""What signals of a dual encoder's text tower are computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from tokenprune.interface.signals.views import View
from tokenprune.interface.sites import Stage


@dataclass(frozen=True)
class TowerSpace(View):
    """Visual tokens and questions in the space of the text tower that the strategy names.

    Attributes:
        tokens: `[B, N, E]` features behind the last used block, projected.
        read: whether to cut -> every image's question `[M, E]`, see `TextTower.encode`.
    """

    title: ClassVar[str] = "text tower of a dual encoder"
    stages: ClassVar[tuple[Stage, ...]] = ("pre_llm",)

    tokens: Tensor
    read: Callable[[bool], Sequence[Tensor]]

    @property
    def sizes(self) -> Mapping[str, int]:
        """B images of N tokens, E channels of the common space."""
        return dict(zip("BNE", self.tokens.shape, strict=True))

    @cached_property
    def question(self) -> Tensor:
        """`[B, E]` questions cut to the tower's length, not normalised."""
        return torch.cat([*self.read(True)])

    @cached_property
    def pieces(self) -> Tensor:
        """`[B, M, E]` questions in pieces of length 1, right-padded with zeros."""
        return pad_sequence([normalize(one, dim=-1) for one in self.read(False)], batch_first=True)
