"""One choice in every image or frame, with an exact number over all."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.covipal.choice import best_of_each, shares

from tests.mllm.calls import inputs, logits, model
from tests.models import IMAGE_TOKEN
from tests.strategies.cases import budget, make_tokens
from tests.strategies.test_strategy_covipal import SITE, D, fresh
from tokenprune import attach
from tokenprune.interface.signals import Signal
from tokenprune.interface.tokens import Tokens


def quota(counts: list[int], keep: int) -> list[int]:
    """Whole shares, then one more each for the largest remainders."""
    total = sum(counts)
    found = [count * keep // total for count in counts]
    rest = sorted(range(len(counts)), key=lambda i: (-(counts[i] * keep % total), i))
    for i in rest[: keep - sum(found)]:
        found[i] += 1
    return found


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=80)
def test_the_best_of_each_against_loops(counts: list[int], seed: int, data: Any) -> None:
    total = sum(counts)
    if not total:
        return
    keep = data.draw(st.integers(1, total))
    torch.manual_seed(seed)
    score = torch.randint(0, 6, (2, total)).float()  # with ties
    mixed = torch.randperm(total)
    image = torch.tensor([n for n, count in enumerate(counts) for _ in range(count)])
    image = torch.stack((image, image[mixed]))
    found = best_of_each(score, image, len(counts), keep)
    share = quota(counts, keep)
    assert shares(torch.tensor([counts]), keep).tolist() == [share]
    assert sum(share) == keep
    for row in range(2):
        wanted = []
        for number, most in enumerate(share):
            mine = [i for i in range(total) if image[row, i] == number]
            wanted += sorted(mine, key=lambda i: (-float(score[row, i]), i))[:most]
        assert found[row].tolist() == sorted(wanted)


def sample(grid: tuple[int, int, int], index: torch.Tensor) -> Tokens:
    torch.manual_seed(1)
    text = {Signal.TEXT_STATES: torch.randn(2, 3, D), Signal.TEXT_PLACE: torch.ones(2, 3).long()}
    hidden = torch.randn(*index.shape, D)
    return make_tokens(hidden, site=SITE, signals=text, index=index, grid=grid)


def test_every_image_keeps_as_many_and_the_default_is_the_sample() -> None:
    tokens = sample((3, 2, 4), torch.arange(24).expand(2, -1))
    each = fresh(per_image=True).reduce(tokens, budget(tokens, 6))
    whole = fresh().reduce(tokens, budget(tokens, 6))
    assert each.anchor is not None
    assert whole.anchor is not None
    score = fresh().score(tokens)
    for row in range(2):
        wanted = [
            8 * n + i for n in range(3) for i in score[row, 8 * n : 8 * n + 8].topk(2).indices
        ]
        assert each.anchor[row].tolist() == sorted(map(int, wanted))
    assert torch.equal(whole.anchor, score.topk(6).indices.sort().values)
    assert not torch.equal(whole.anchor, each.anchor)


def test_what_earlier_stages_left_of_an_image_bounds_its_share() -> None:
    index = torch.tensor([[0, 3, 8, 9, 10, 11, 12, 13], [1, 8, 9, 10, 11, 12, 13, 14]])
    tokens = sample((2, 2, 4), index)
    answer = fresh(per_image=True).reduce(tokens, budget(tokens, 4))
    assert answer.anchor is not None
    first = [sum(int(tokens.index[row, i]) < 8 for i in answer.anchor[row]) for row in range(2)]
    assert answer.length == 4
    assert first == [1, 1]  # 2 of 8 and 1 of 8 arrive: 1 and 0.5 of four, which goes up


@pytest.mark.parametrize(("keep", "each"), [(5, 5), (0.25, 9)])
def test_two_images_in_one_prompt(keep: float, each: int) -> None:
    of, call = model(), inputs([1, IMAGE_TOKEN, 10, IMAGE_TOKEN, 12], [1, IMAGE_TOKEN, 11, 12])
    width = of.config.text_config.hidden_size
    params = {"init_seed": 0, "dim": width, "width": 16, "heads": 2, "per_image": True}
    stage = {"at": "decoder", "strategy": "covipal_style", "keep": keep, "params": params}
    with attach(of, {"stages": [stage]}) as handle:
        logits(of, call)
        kept = [image.steps[-1].anchor for image in handle.trace.images]
    assert [len(index) for index in kept] == [each] * 3
