"""Whose word on position ids holds: the plan's, a strategy's, or the default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.errors import PlanError
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.plan import Plan, load_plan, numbering, positions_of
from tokenprune.plugins.host import register_plugin


class Silent(PruningStrategy[StrategyParams]):
    name = "t-silent"
    stages = (PreLlm(), Decoder(layer=2))

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        return Reduction.none()


class Compact(Silent):
    name = "t-compact"
    stages = (PreLlm(positions="compact"), Decoder(layer=2))


class Original(Silent):
    name = "t-original"
    stages = (PreLlm(positions="original"), Decoder(layer=2, positions="original"))


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    with register_plugin(registering(Silent, Compact, Original), "numbering-tests"):
        yield


def loaded(*stages: tuple[str, str], **rest: Any) -> Plan:
    made = [{"at": at, "strategy": name, "keep": 0.5} for at, name in stages]
    return load_plan({"schema_version": 1, "stages": made, **rest})


def test_the_plans_word_comes_first() -> None:
    for word in ("original", "compact"):
        plan = loaded(("pre_llm", "t-compact"), ("decoder", "t-original"), positions=word)
        found = numbering(plan)
        assert (found.compact_entry, found.compact_layers) == (word == "compact",) * 2
        assert str(found) == f"{word} (as the plan says)"


def test_a_strategy_speaks_for_its_own_place() -> None:
    plan = loaded(("pre_llm", "t-silent"), ("pre_llm", "t-compact"), ("decoder", "t-silent"))
    found = numbering(plan)
    assert (found.compact_entry, found.compact_layers) == (True, False)
    assert positions_of(plan) == "compact"
    assert str(found) == (
        "compact (as t-compact has them) at the LLM's input, original (the default) inside it"
    )


def test_without_a_word_they_stay() -> None:
    assert str(numbering(loaded(("decoder", "t-silent")))) == "original (the default)"
    nothing = numbering(loaded())
    assert not nothing.compact_entry
    assert not nothing.stated


def test_two_that_differ_at_one_place_are_refused() -> None:
    with pytest.raises(PlanError, match=r"t-original.*original.*t-compact.*compact") as caught:
        loaded(("pre_llm", "t-compact"), ("pre_llm", "t-original"))
    assert caught.value.where == "stages.1"
    assert "positions: original" in (caught.value.remedy or "")


def test_vscan_and_prunevid_say_what_their_code_does() -> None:
    vscan = loaded(("pre_llm", "vscan"), ("decoder", "vscan"))
    assert str(numbering(vscan)) == "compact (as vscan has them)"
    stages = [{"at": at, "strategy": "prunevid"} for at in ("pre_llm", "decoder")]
    found = numbering(load_plan({"schema_version": 1, "stages": stages}))
    assert (found.compact_entry, found.compact_layers) == (True, False)
