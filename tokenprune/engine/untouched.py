"""Whether a strategy changed a tensor of its tokens in place; it may only read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.interface.tokens import Tokens


@dataclass(frozen=True)
class Untouched:
    """What a strategy got, remembered to find changes in place.

    Attributes:
        versions: torch's count of changes of every tensor, where there is one.
        copies: the tensors' bytes, where values are checked.
    """

    versions: Mapping[str, int | None]
    copies: Mapping[str, Tensor]

    @classmethod
    def of(cls, tokens: Tokens, *, values: bool) -> Untouched:
        """Remember the tokens' tensors; their bytes too if `values`."""
        given = dict(_tensors(tokens))
        copies = {name: _bytes(value).clone() for name, value in given.items()} if values else {}
        return cls({name: _version(value) for name, value in given.items()}, copies)

    def changed(self, tokens: Tokens) -> list[str]:
        """Names of the tensors that torch knows to have been changed."""
        return [name for name, value in _tensors(tokens) if _version(value) != self.versions[name]]

    def faults(self, tokens: Tokens) -> Iterator[tuple[Tensor, str]]:
        """As `engine.answers.faults`: changes that torch doesn't count (inference mode)."""
        for name, value in _tensors(tokens):
            if name in self.copies:
                same = (_bytes(value) == self.copies[name]).all()
                yield same, f"changed the {name} that it got in place"


def _tensors(tokens: Tokens) -> Iterator[tuple[str, Tensor]]:
    yield "hidden states", tokens.hidden
    yield "sizes", tokens.size
    yield "indices", tokens.index
    if tokens.prefix is not None:
        yield "prefix tokens", tokens.prefix
    for kind, values in (("signal", tokens.signals), ("rider", tokens.riders)):
        for name, value in values.items():
            yield f"{kind} '{name}'", value


def _version(value: Tensor) -> int | None:
    return None if value.is_inference() else value._version


def _bytes(value: Tensor) -> Tensor:
    return value.detach().contiguous().flatten().view(torch.uint8)
