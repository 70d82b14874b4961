from typing import Any

import pytest
import torch
from tokenprune_strategies.quecc import QueCC, training

from tests.strategies.test_strategy_quecc import created, fresh, picture
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import Batch, TrainingStep


class Buckets:
    """A session whose batch comes to the strategy in dense batches of one shape each."""

    def __init__(self, strategy: QueCC, *tokens: Tokens, broken: bool = False) -> None:
        self.strategy, self.tokens, self.broken = strategy, tokens, broken

    def encode(self, batch: Batch) -> None:
        for tokens in self.tokens:
            created(self.strategy, tokens)
        if self.broken:
            raise RuntimeError("out of something")


STEP = TrainingStep(0, training.ALIGNMENT.name, 0.0, torch.Generator())
BATCH = Batch({}, torch.zeros(1, 2, dtype=torch.long))


def aligned(strategy: QueCC, *tokens: Tokens, **rest: Any) -> torch.Tensor:
    session: Any = Buckets(strategy, *tokens, **rest)
    return strategy.loss(session, BATCH, STEP).loss


def test_every_shape_of_a_batch_counts_by_its_new_tokens() -> None:
    strategy = fresh().train()
    square, wide = picture((1, 4, 4), batch=3), picture((1, 4, 8), batch=1, seed=1)
    both = aligned(strategy, square, wide)
    alone = [aligned(strategy, tokens) for tokens in (square, wide)]
    assert not torch.isclose(*alone)
    # 3 pictures of 4 new tokens, and one of 8
    torch.testing.assert_close(both, (12 * alone[0] + 8 * alone[1]) / 20)
    both.backward()
    assert all(p.grad is not None for p in strategy.trainable_parameters())


def test_a_forward_that_raises_leaves_nothing_behind() -> None:
    strategy, tokens = fresh().train(), picture((1, 4, 4))
    other = picture((1, 4, 8), seed=1)
    wanted = aligned(strategy, tokens)
    with pytest.raises(RuntimeError, match="out of something"):
        aligned(strategy, other, broken=True)
    assert torch.equal(aligned(strategy, tokens), wanted)
    created(strategy, other)  # outside of a loss
    held = [value for value in vars(strategy).values() if value is not strategy.module]
    assert not any(isinstance(value, list | torch.Tensor) for value in held)
    assert torch.equal(aligned(strategy, tokens), wanted)
