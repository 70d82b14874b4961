"""The guards of a compiled tower grow with its blocks about as those of the plain one do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch._dynamo.exc import Unsupported

import tokenprune
from tests import models
from tests.contract.cases import ENCODERS, attached
from tests.contract.compiling import assert_same, one_graph
from tokenprune.errors import UnsupportedCallError

STAGE = {"strategy": "evoprune", "schedule": "skip"}
KEEP = 20
MORE = 1.25
"""Guards of a further block, in times of the plain model's (ours)."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def guards(model: Any, given: dict[str, Any]) -> list[str]:
    """What the guards of a call's graph look at."""
    found: list[list[str]] = []

    def all_of(entries: Sequence[Any]) -> list[bool]:
        found.append([entry.name for entry in entries])
        return [True] * len(entries)

    torch._dynamo.reset()
    options: dict[str, Any] = {"guard_filter_fn": all_of}
    torch.compile(model, backend="eager", fullgraph=True, dynamic=False, options=options)(**given)
    return found[-1]


@pytest.mark.parametrize("encoder", ["clip-vision", "timm-vit"])
@torch.no_grad()
def test_a_further_block_costs_about_as_many_guards_as_in_the_plain_model(encoder: str) -> None:
    depth = "depth" if encoder.startswith("timm") else "num_hidden_layers"
    given = ENCODERS[encoder].inputs(1)
    counts: dict[str, list[int]] = {"dense": [], "plan": []}
    for blocks in (1, 3):
        model = ENCODERS[encoder].build(**{depth: blocks})
        counts["dense"].append(len(guards(model, given)))
        with attached(model, STAGE, keep=KEEP):
            counts["plan"].append(len(guards(model, given)))
    dense, plan = (few[1] - few[0] for few in counts.values())
    assert plan <= MORE * dense


def around(held: Callable[..., Any]) -> Callable[..., Any]:
    """What somebody puts around a forward."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return held(*args, **kwargs)

    return forward


@pytest.mark.parametrize("where", ["tower", "block"])
@torch.no_grad()
def test_a_graph_that_still_calls_a_patched_forward_notices_that_the_plan_is_gone(
    where: str,
) -> None:
    model, pictures = models.clip_vision(num_hidden_layers=2), models.pixels(2)
    plain = model(pictures)
    owner: Any = model
    if where == "block":
        owner = next(one for one in model.modules() if type(one).__name__ == "CLIPEncoderLayer")
    handle = tokenprune.attach(
        model,
        {"schema_version": 1, "stages": [{"at": "encoder", **STAGE, "keep": KEEP}]},
    )
    owner.forward = around(owner.forward)
    compiled, counter = one_graph(model)
    pruned = compiled(pictures)
    for _ in range(2):  # from the cache
        assert_same(compiled(pictures), pruned)
    assert counter.frame_count == 1
    handle.detach()
    assert "forward" in owner.__dict__
    assert_same(compiled(pictures), plain)


@torch.no_grad()
def test_a_graph_of_one_plan_is_not_used_for_another() -> None:
    """The plans differ by one number."""
    model, given = ENCODERS["timm-vit"].build(depth=2), ENCODERS["timm-vit"].inputs(2)
    compiled, counter = one_graph(model)
    dense = model(**given)
    assert_same(compiled(**given), dense)
    for graphs, keep in enumerate((KEEP, KEEP - 2), 2):
        with attached(model, STAGE, keep=keep):
            wanted = model(**given)
            for _ in range(2):  # traced, then from the cache
                assert_same(compiled(**given), wanted)
        assert counter.frame_count == graphs
    assert_same(compiled(**given), dense)


@torch.no_grad()
def test_blocks_that_changed_places_are_noticed() -> None:
    model, pictures = models.clip_vision(num_hidden_layers=2), models.pixels(2)
    blocks = next(one for one in model.modules() if isinstance(one, torch.nn.ModuleList))
    with attached(model, STAGE, keep=KEEP):
        compiled, _ = one_graph(model)
        compiled(pictures)
        blocks[0], blocks[1] = blocks[1], blocks[0]
        with pytest.raises(UnsupportedCallError, match="replaced or left out"):
            model(pictures)
        with pytest.raises((UnsupportedCallError, Unsupported)):  # traced anew up to the refusal
            compiled(pictures)


@torch.no_grad()
def test_what_a_plan_does_not_hold_is_still_looked_at() -> None:
    model, pictures = models.clip_vision(num_hidden_layers=1), models.pixels(2)
    last: Any = [one for one in model.modules() if type(one).__name__ == "CLIPEncoderLayer"][-1]
    weight = last.self_attn.q_proj.weight
    with attached(model, STAGE, keep=KEEP):
        compiled, _ = one_graph(model)
        assert_same(compiled(pictures), model(pictures))
        last.self_attn.q_proj.weight = torch.nn.Parameter(2 * weight)
        assert_same(compiled(pictures), model(pictures))
        last.layer_norm2.eps = 0.5
        assert_same(compiled(pictures), model(pictures))
        last.mlp.fc1 = torch.nn.Sequential(last.mlp.fc1, torch.nn.Tanh())
        assert_same(compiled(pictures), model(pictures))
