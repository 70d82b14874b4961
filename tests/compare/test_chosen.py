"""Which strategies are compared, and with which budgets side by side."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.compare.test_foreign import Sound, compared, few, registering
from tokenprune.cli import app
from tokenprune.engine.conditions import Conditions
from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedModel
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.lab.compare import Comparison, Settings
from tokenprune.lab.compare.chosen import DOZEN, FAMILIES, chosen
from tokenprune.lab.compare.entries import build_entries
from tokenprune.lab.compare.matching import equal_tokens
from tokenprune.lab.compare.table import legend
from tokenprune.lab.data.pictures import heldout_questions
from tokenprune.lab.measure import run
from tokenprune.lab.measure.entries import home, strategy_entry
from tokenprune.plan import Average, load_plan
from tokenprune.plugins.host import host, register_plugin

FIRST = heldout_questions(1)[0]


def test_the_dozen_is_twelve_installed_strategies_of_every_place() -> None:
    kinds = host().strategies
    assert len(DOZEN) == len(set(DOZEN)) == 12
    assert {home(kinds[name]) for name in DOZEN} == {"encoder", "pre_llm", "decoder"}


def test_the_dozen_the_baseline_and_what_others_brought_are_compared() -> None:
    everything = host().strategies
    assert set(chosen(everything)) == {*DOZEN, "random"}
    with register_plugin(registering(Sound), "foreign"):
        assert Sound.name in chosen(host().strategies)
    assert chosen(everything, every=True) == everything


def test_every_strategy_is_of_one_family() -> None:
    everything = host().strategies
    found = [set(chosen(everything, family=name)) - {"random"} for name in FAMILIES]
    assert set().union(*found) == everything.keys() - {"random"}
    assert sum(map(len, found)) == len(everything) - 1
    learned = {n for n, kind in everything.items() if issubclass(kind, TrainableStrategy)}
    assert set(chosen(everything, family="learned")) == learned | {"random"}


def test_tokens_are_equal_in_the_mean_over_the_layers() -> None:
    kinds = host().strategies
    inside = equal_tokens(strategy_entry(kinds["fastv"], 80, "decoder", layers=6))
    assert inside.plan.stages[0].keep == Average(average=80)
    assert (inside.peers, inside.keep) == ("80", "avg 80")
    for name in ("divprune", "evoprune"):
        entry = strategy_entry(kinds[name], 80, home(kinds[name]))
        assert equal_tokens(entry) is entry


def test_a_budget_that_layers_before_the_stage_exceed_is_left_out_by_name(
    llava: LoadedModel,
) -> None:
    """Two of four layers see 36 tokens, so no keep behind them has a mean of 9."""
    settings = Settings(keeps=(30, 9), positions="original")
    entries, left_out = build_entries(llava, settings, FIRST)
    at = {(entry.name, entry.peers) for entry in entries}
    assert ("fastv", "30") in at
    assert ("fastv", "9") not in at
    (line,) = [line for line in left_out if line.startswith("fastv")]
    assert line.startswith("fastv at 9 is left out: ")
    written = replace(settings, keeps=(9,), match="stage")
    as_written, _ = build_entries(llava, written, FIRST)
    assert ("fastv", "9") in {(entry.name, entry.keep) for entry in as_written}


FEW = ("evoprune", "tome", "divprune", "fastv", "pyramiddrop")
"""Of every place, with a number of tokens and without."""


@pytest.fixture(scope="module")
def equal(llava: LoadedModel) -> Comparison:
    settings = Settings(keeps=(12,), limit=4, batch_size=4, positions="original", match="flops")
    with few(*FEW):
        return compared(llava, settings)


def test_flops_are_the_largest_that_arent_above_the_baselines(equal: Comparison) -> None:
    (goal,) = (row.flops_ratio for row in equal.results if row.run.plan.name == "random-12")
    rows = {row.name: row for row in equal.results if row.run.entry.peers == "12"}
    solved = {name: row for name, row in rows.items() if name != "random" and row.keep.isdecimal()}
    assert {"evoprune", "tome"} <= solved.keys()
    for name, row in solved.items():
        assert row.flops_ratio <= goal, name
        assert "solved" in row.run.entry.meaning
    # merging early saves operations in the tower too, so that more tokens cost the same
    assert int(solved["tome"].keep) > 12
    # the table says what it doesn't show
    others = len(host().strategies) - len(FEW) - 1
    assert any(line.startswith(f"{others} other strategies") for line in legend(equal))
    unsolved = [line for line in equal.left_out if "costs more flops" in line]
    for line in unsolved:
        assert line.split()[0] not in solved


def test_scores_cost_nothing_that_the_baseline_saves(equal: Comparison) -> None:
    rows = {row.name: row for row in equal.results}
    assert rows["divprune"].run.plan.stages[0].at == "pre_llm"
    assert int(rows["divprune"].keep) <= 12


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"family": "merging"}, "no choice 'merging'"),
        ({"match": "money"}, "no choice 'money'"),
        ({"family": "encoder", "every": True}, "more than a family"),
        ({"plans": [("mine", object())], "every": True}, "plans of your own"),
    ],
)
def test_choices_that_dont_exist_or_would_be_ignored(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        Settings(**settings)  # type: ignore[arg-type]


def test_all_is_no_study_file() -> None:
    done = CliRunner().invoke(app, ["compare", "--all", "--family", "encoder"])
    assert done.exit_code == 2
    assert "more than a family" in done.output


def test_values_are_read_before_anything_is_timed(
    llava: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, timed = Conditions.wanted, run._timed
    every: list[bool] = []
    clocked: list[bool] = []

    def noted(self: Conditions, case: Hashable) -> bool:
        every.append(wanted(self, case))
        return every[-1]

    def clock(*args: Any) -> Any:
        before, found = len(every), timed(*args)
        clocked.extend(every[before:])
        return found

    monkeypatch.setattr(Conditions, "wanted", noted)
    monkeypatch.setattr(run, "_timed", clock)
    plan = load_plan({"stages": [{"at": "encoder", "strategy": "tome", "keep": 12}]})
    compared(llava, Settings(plans=[("mine", plan)], limit=4, batch_size=2))
    assert any(every)
    assert clocked
    assert not any(clocked)
