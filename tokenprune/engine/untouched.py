"""Whether a strategy changed a tensor of its tokens in place; it may only read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tokenprune.interface.tokens import Tokens


class Untouched(NamedTuple):
    """What a strategy got, remembered to find changes in place.

    Attributes:
        tensors: the tokens' tensors.
        versions: torch's count of changes of every tensor, where there is one; empty where there is
            none at all.
        copies: the tensors' bytes, where values are checked; else empty.
    """

    tensors: Sequence[Tensor]
    versions: Sequence[int | None]
    copies: Sequence[Tensor]

    @classmethod
    def of(cls, tokens: Tokens, *, values: bool) -> Untouched:
        """Remember the tokens' tensors; their bytes too if `values`."""
        prefix = () if tokens.prefix is None else (tokens.prefix,)
        given = tokens.signals.values(), tokens.riders.values()
        tensors = [tokens.hidden, tokens.size, tokens.index, *prefix, *given[0], *given[1]]
        copies = [_bytes(value).clone() for value in tensors] if values else []
        return cls(tensors, _versions(tensors), copies)

    def changed(self, tokens: Tokens) -> str:
        """Names of the tensors that torch knows to have been changed; empty if there is none.

        Torch counts changes of what shares memory together, so the bytes tell which one it was; `a
        or b` where they weren't remembered.
        """
        now = _versions(self.tensors)
        if now == self.versions:
            return ""
        known = zip(_names(tokens), now, self.versions, strict=False)
        counted = {name: place for place, (name, *count) in enumerate(known) if len(set(count)) > 1}
        other = [name for name, place in counted.items() if self._differs(place)]
        return " and ".join(other) or " or ".join(counted)

    def _differs(self, place: int) -> bool:
        """Whether the bytes of a tensor were remembered and are others now."""
        if not self.copies:
            return False
        return not torch.equal(_bytes(self.tensors[place]), self.copies[place])

    def faults(self, tokens: Tokens) -> Iterator[tuple[Tensor, str]]:
        """As `engine.answers.faults`: changes that torch doesn't count (inference mode)."""
        for name, value, copy in zip(_names(tokens), self.tensors, self.copies, strict=False):
            yield (_bytes(value) == copy).all(), f"changed the {name} that it got in place"


def _names(tokens: Tokens) -> list[str]:
    prefix = [] if tokens.prefix is None else ["prefix tokens"]
    signals = [f"signal '{name}'" for name in tokens.signals]
    riders = [f"rider '{name}'" for name in tokens.riders]
    return ["hidden states", "sizes", "indices", *prefix, *signals, *riders]


def _versions(tensors: Sequence[Tensor]) -> list[int | None]:
    if all(map(Tensor.is_inference, tensors)):
        return []
    return [None if value.is_inference() else value._version for value in tensors]


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().flatten().view(torch.uint8)
