"""One stage of several layers: unfolded into its steps, and PyramidDrop's against a loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import tokenprune
from tests.mllm import oracle, signal_oracle
from tests.mllm.calls import LONG, SHORT, inputs, logits, model, split
from tests.mllm.plans import drawn, fastv, plan, tome
from tests.plugin import registering
from tokenprune import Decoder, ScoreStrategy, StrategyParams, Tokens
from tokenprune.errors import BudgetError, LayerError, PlanError
from tokenprune.interface.placement import Step
from tokenprune.plugins.host import register_plugin

NAME = {"at": "decoder", "strategy": "pyramiddrop"}


class Uneven(ScoreStrategy[StrategyParams]):
    """Two steps of different shares; none in a flat LLM."""

    name = "t-uneven"
    stages = (Decoder(steps=lambda layers: (Step(1, 0.5), Step(3, 0.25)) if layers > 3 else ()),)

    def score(self, tokens: Tokens) -> torch.Tensor:
        return tokens.hidden[..., 0].float()


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    with register_plugin(registering(Uneven), "steps-tests"):
        yield


def at(layer: int, keep: Any) -> dict[str, Any]:
    return {**NAME, "layer": layer, "keep": keep}


def measured(*stages: dict[str, Any], prompts: tuple[list[int], ...] = (SHORT, LONG)) -> Any:
    of = model()
    with tokenprune.attach(of, plan(*stages)) as handle:
        logits(of, inputs(*prompts))
        return handle.meter.tokens


def counts(found: Any) -> list[float]:
    """Tokens per image behind layers 1, 2 and 3, where something was cut."""
    return [found[f"decoder[{layer}]"] for layer in (1, 2, 3) if f"decoder[{layer}]" in found]


def by_loops(of: Any, one: oracle.Sample, compact: bool) -> torch.Tensor:
    """Logits of one sample, halved in front of layers 1, 2 and 3."""
    language = of.model.language_model
    hidden, place, visual = one.embeds, one.place, list(one.visual)
    first = len(visual)
    for number, layer in enumerate(language.layers):
        ids = torch.arange(len(place)) if compact else place
        if number:
            row = signal_oracle.last(signal_oracle.attention(of, number, hidden, ids))
            keep = int(first * 0.5**number)
            best = sorted(visual, key=lambda column: (-row[column], column))[:keep]
            columns = [c for c in range(len(place)) if c not in visual or c in best]
            hidden, place = hidden[columns], place[columns]
            visual = [columns.index(c) for c in sorted(best)]
            ids = torch.arange(len(place)) if compact else place
        rows = language.rotary_emb(hidden[None], position_ids=ids[None])
        hidden = layer(
            hidden[None],
            attention_mask=oracle._causal(of, len(place)),
            position_embeddings=rows,
        )[0]
    return of.lm_head(language.norm(hidden))


@pytest.mark.parametrize("compact", [False, True])
def test_pyramiddrop_against_a_loop_over_the_plain_layers(compact: bool) -> None:
    of, call = model(), inputs(SHORT, LONG)
    with torch.no_grad():
        wanted = [
            by_loops(
                of,
                oracle.sample(
                    of,
                    one["input_ids"][0].tolist(),
                    one["pixel_values"],
                    [range(36)] * len(one["pixel_values"]),
                ),
                compact,
            )
            for one in split(call)
        ]
    positions = "compact" if compact else "original"
    with tokenprune.attach(of, plan(NAME, positions=positions)):
        found = logits(of, call)
    for row, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(row[-1], want[-1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("keep", [None, {"average": 18}])
def test_one_name_is_its_steps_written_out(keep: Any) -> None:
    of, call = model(), inputs(SHORT, LONG)
    alone = {**NAME} if keep is None else {**NAME, "keep": keep}
    steps = [at(layer, 0.5 if keep is None else keep) for layer in (1, 2, 3)]
    with tokenprune.attach(of, plan(alone)):
        found = logits(of, call)
    with tokenprune.attach(of, plan(*steps)) as handle:
        assert torch.equal(found, logits(of, call))
        if keep is not None:
            assert 17 < handle.meter.tokens["llm_average"] <= 18


def test_own_shares_are_of_all_tokens_of_a_sample() -> None:
    assert counts(measured(NAME, prompts=(SHORT,))) == [18, 9, 4]
    assert counts(measured(NAME, prompts=(LONG,))) == [18, 9, 4.5]


def test_a_number_of_tokens_is_what_the_last_step_leaves() -> None:
    assert counts(measured({**NAME, "keep": 4})) == [17, 8, 4]  # 36 (4 / 36)^(1/3), then a half
    assert counts(measured({**NAME, "keep": 36})) == [36, 36, 36]
    uneven = {"at": "decoder", "strategy": "t-uneven", "keep": 4}
    assert counts(measured(uneven)) == [17, 4]  # a third of the way: 36 (4 / 36)^(1/3)
    with pytest.raises(BudgetError, match="37"):
        measured({**NAME, "keep": 37})


def test_a_ratio_goes_by_its_root() -> None:
    assert counts(measured({**NAME, "keep": 0.125}, prompts=(SHORT,))) == [18, 9, 4]
    uneven = {"at": "decoder", "strategy": "t-uneven", "keep": 0.125}
    assert counts(measured(uneven, prompts=(SHORT,))) == [18, 4]


def test_a_layer_in_the_plan_makes_it_one_step() -> None:
    assert counts(measured(at(2, 7))) == [7]
    with pytest.raises(PlanError, match="needs a budget"):
        measured({**NAME, "layer": 2})


def test_it_composes_with_what_stands_before_and_behind() -> None:
    assert counts(measured(tome(20), NAME, prompts=(SHORT,))) == [10, 5, 2]
    found = measured({"at": "pre_llm", "strategy": "random", "keep": {"average": 10}}, NAME)
    assert found["llm"] == 22  # 22, 11, 5 and 2: 10 in the mean
    assert counts(measured(drawn(16), {**NAME, "keep": 2})) == [8, 4, 2]
    with pytest.raises(LayerError, match="overlap"):
        measured(fastv(1, 9), NAME)


def test_what_cannot_be_solved_is_refused() -> None:
    early = {"at": "pre_llm", "strategy": "random", "keep": {"average": 10}}
    with pytest.raises(PlanError, match="ratio"):
        measured(early, {**NAME, "keep": 3})
    with pytest.raises(PlanError, match="one layer"):
        measured({**NAME, "layers": [1, 2]})
