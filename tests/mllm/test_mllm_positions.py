"""Position ids that a strategy states for the LLM's input alone, against a run by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import tokenprune
from tests.mllm import oracle
from tests.mllm.calls import LONG, NEW, greedy, inputs, logits, model
from tests.mllm.plans import pick, plan
from tests.mllm.strategies import Pick
from tests.mllm.test_mllm_decoder import keep_only
from tests.plugin import registering
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.plugins.host import register_plugin

BEFORE, INSIDE = (1, 2, 5, 6, 9), [0, 2, 3, 4, 7, 9]


class Renumbering(Pick):
    """Keeps the tokens it is told, as a strategy whose code renumbers what stage 1 leaves."""

    name = "t-renumbering"
    stages = (PreLlm(positions="compact"), Decoder())


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    with register_plugin(registering(Renumbering), "positions-tests"):
        yield


@pytest.mark.parametrize("word", [None, "original"])
def test_the_input_is_renumbered_and_later_cuts_leave_gaps(word: str | None) -> None:
    of, call = model(), inputs(LONG)
    stages = [
        {**pick(*BEFORE), "strategy": "t-renumbering"},
        {**pick(*INSIDE, at="decoder", layer=2), "keep": 3},
    ]
    edits = {2: keep_only(INSIDE)}
    with torch.no_grad():
        ids = call["input_ids"][0].tolist()
        one = oracle.sample(of, ids, call["pixel_values"], [BEFORE, BEFORE])
        _, place = oracle.run(of, one, edits)
        if word is None:  # the prompt as it would be without what left in front of the LLM
            count = len(one.place)
            one = replace(one, place=torch.arange(count), length=count)
        want, _ = oracle.run(of, one, edits)
        tokens = oracle.greedy(of, one, NEW, edits)
    said = {} if word is None else {"positions": word}
    with tokenprune.attach(of, plan(*stages, **said)):
        pruned = logits(of, call)
        assert greedy(of, call)[0].tolist() == tokens
        assert greedy(of, call, use_cache=False)[0].tolist() == tokens
    torch.testing.assert_close(pruned[0, place], want, atol=2e-5, rtol=1e-4)
