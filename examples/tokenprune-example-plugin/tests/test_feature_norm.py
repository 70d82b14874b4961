from __future__ import annotations

import torch
from tokenprune_example import FeatureNorm

from tokenprune import Budget, Site, Tokens, load_plan


def tokens(hidden: torch.Tensor) -> Tokens:
    index = torch.arange(hidden.shape[1]).expand(hidden.shape[0], -1)
    grid = (1, 2, hidden.shape[1] // 2)
    return Tokens(
        hidden=hidden,
        size=torch.ones(index.shape),
        index=index,
        grid=grid,
        site=Site("pre_llm", 12, 12),
    )


def test_the_longest_stay_in_raster_order() -> None:
    lengths = torch.tensor([[1.0, 4.0, 2.0, 3.0], [4.0, 1.0, 3.0, 1.0]])
    hidden = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=-1) * lengths[..., None]
    reduction = FeatureNorm.from_params().reduce(tokens(hidden), Budget(count=4, keep=2))
    assert reduction.anchor is not None
    assert reduction.anchor.tolist() == [[1, 3], [0, 2]]
    torch.testing.assert_close(reduction.score, lengths)


def test_plans_find_it_by_name() -> None:
    stage = {"at": "pre_llm", "strategy": "feature_norm", "keep": 0.25, "params": {"order": 1}}
    assert load_plan({"stages": [stage]}).stages[0].params == {"order": 1.0}
