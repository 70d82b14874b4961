"""Setting the best tokens apart, against a plain sort of Python."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.ops import best_last


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.data())
def test_the_others_keep_their_order_and_the_best_follow(
    scores: list[int], data: st.DataObject
) -> None:
    number = data.draw(st.integers(0, len(scores)))
    best = sorted(range(len(scores)), key=lambda token: (-scores[token], token))[:number]
    others = [token for token in range(len(scores)) if token not in best]
    batch = torch.tensor([scores, [0] * len(scores)], dtype=torch.float32)
    first, second = best_last(batch, number).tolist()
    assert first == others + best
    assert second == [*range(number, len(scores)), *range(number)]


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0..3, not 4"):
        best_last(torch.ones(1, 3), 4)
