import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.strategies.cases import SITES, make_tokens
from tests.strategies.cls_inflection_oracle import image, kept, long_tail
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens


def prompt(score: Tensor, length: int, behind: int, index: list[int]) -> Tokens:
    """Prunable text tokens of a prompt of `length` tokens, `behind` of them behind the image."""
    asking = torch.tensor([[place >= length - behind for place in index]])
    tokens = make_tokens(
        torch.zeros(1, len(index), 2),
        site=SITES["decoder"],
        signals={Signal.QUESTION_ATTENTION_MEAN: score[None], Signal.BEHIND_IMAGES: asking},
        index=torch.tensor([index]),
        grid=(1, 1, length),
    )
    return replace(tokens, kind="text")


def test_the_visual_tokens_of_the_second_stage_by_the_same_rule() -> None:
    score = long_tail(60, 3).float()
    made = make_tokens(
        torch.zeros(1, 60, 2),
        site=SITES["decoder"],
        signals={Signal.QUESTION_ATTENTION_MEAN: score[None]},
    )
    assert kept(made, k_min=3) == kept(image(score[None]), k_min=3)
    assert len(kept(made, Budget(60, 4), k_min=3)[0]) == 4


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 10), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_text_keeps_the_template_the_end_and_half_of_the_question(
    seed: int, question: int, last: int, keep: int
) -> None:
    torch.manual_seed(seed)
    # BOS (special), three words, ten visual tokens, the question, whose last token is special
    index = [1, 2, 3, *range(14, 14 + question - 1)]
    length = 14 + question
    score = torch.rand(len(index)) ** 4
    tokens = prompt(score, length, question, index)
    budget = Budget(len(index), min(keep, len(index)))
    found = kept(tokens, budget, last_text=last, knee="mass")[0]
    asking = [i for i, place in enumerate(index) if place >= 14]
    sure = [i for i, place in enumerate(index) if place < 14 or place >= length - last]
    assert len(found) <= budget.keep
    if len(sure) > budget.keep:
        ends = [i for i in sure if index[i] >= length - last][::-1]
        assert found == sorted([*ends, *(i for i in sure if i not in ends)][: budget.keep])
        return
    assert set(sure) <= set(found)
    half = math.ceil(0.5 * len(asking))
    open_ = [i for i in asking if i not in sure]
    assert len(set(found) & set(asking)) >= half or len(found) == budget.keep
    chosen = [i for i in found if i in open_]
    others = [i for i in open_ if i not in found]
    if chosen and others:
        assert min(score[i] for i in chosen) >= max(score[i] for i in others)


def test_text_is_cut_at_its_own_bend() -> None:
    score = torch.tensor([0.1, 0.1, 9.0, 8.0, 0.2, 0.1, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1])
    tokens = prompt(score, 40, 12, list(range(28, 40)))
    rest = {"knee": "mass", "last_text": 2}
    assert kept(tokens, Budget(12, 12), min_text=0.0, **rest) == [[2, 3, 10, 11]]
    assert kept(tokens, Budget(12, 12), min_text=0.5, **rest) == [[2, 3, 4, 6, 10, 11]]
    assert kept(tokens, Budget(12, 12), min_text=0.0, last_text=20) == [list(range(12))]
