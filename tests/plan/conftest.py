from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import settings
from pydantic import Field

from tests.plugin import registering
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget, PruningStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.plugins.host import register_plugin

# a busy machine is no failure
settings.register_profile("unhurried", deadline=None, max_examples=60)
settings.load_profile("unhurried")


class Inner(StrategyParams):
    depth: int = 1


class ToyParams(StrategyParams):
    weight: float = Field(default=1.0, gt=0)
    mode: Literal["near", "far"] = "near"
    width: float | Literal["auto"] = 1.0
    sizes: tuple[int, ...] = ()
    inner: Inner = Inner()


class _Toy(PruningStrategy[ToyParams]):
    Params = ToyParams

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        return Reduction.none()


class ToyAny(_Toy):
    name = "toy_any"
    stages = (Encoder(), PreLlm(), Decoder(text=True))


class ToyMerge(_Toy):
    name = "toy_merge"
    stages = (Encoder(halves=True),)


class ToyOnce(_Toy):
    name = "toy_once"
    stages = (Encoder(layer=3),)


@pytest.fixture(scope="package", autouse=True)
def _toys() -> Iterator[None]:
    with register_plugin(registering(ToyAny, ToyMerge, ToyOnce), "toys"):
        yield
