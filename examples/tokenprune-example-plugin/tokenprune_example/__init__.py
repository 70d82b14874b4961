"""A complete tokenprune plugin: a strategy that keeps the tokens with the longest features."""

from collections.abc import Callable
from typing import Any

from pydantic import Field
from torch import Tensor

from tokenprune import About, Encoder, PreLlm, ScoreStrategy, StrategyParams, Tokens, hookimpl


class FeatureNormParams(StrategyParams):
    """What a plan may write under `params`."""

    order: float = Field(default=2.0, gt=0, description="Order p of the norm.")


class FeatureNorm(ScoreStrategy[FeatureNormParams]):
    """Scores a token by the p-norm of its hidden state."""

    name = "feature_norm"
    Params = FeatureNormParams
    stages = (Encoder(), PreLlm())
    about = About(summary="Keeps the tokens with the longest features.", licence="Apache-2.0")

    def score(self, tokens: Tokens) -> Tensor:
        """`[B, N, D]` -> `[B, N]`."""
        return tokens.hidden.float().norm(p=self.params.order, dim=-1)


@hookimpl
def register_strategies(register: Callable[[type[Any]], None]) -> None:
    """Tell tokenprune about it."""
    register(FeatureNorm)
