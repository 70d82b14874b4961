"""The kit itself: made-up tokens, reports, pytest, the command line."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import tokenprune.testing
from tests.contract.wrong_strategies import Wrong
from tests.plugin import registering
from tokenprune import ScoreStrategy, Signal, Site, StrategyParams, Tokens
from tokenprune.cli import app
from tokenprune.errors import PlanError
from tokenprune.interface.placement import PreLlm
from tokenprune.plugins.host import register_plugin
from tokenprune.testing import check_strategy, fake_tokens
from tokenprune.testing.pytest_plugin import strategy_contract
from tokenprune.testing.strategy import CHECKS

pytest_plugins = ["pytester"]
LLM = Site("decoder", 2, 6)


class Longest(ScoreStrategy[StrategyParams]):
    name = "t-longest"
    stages = (PreLlm(),)

    def score(self, tokens: Tokens) -> torch.Tensor:
        return tokens.hidden.float().norm(dim=-1)


test_one_line_is_a_contract = strategy_contract(Longest)


def test_equal_arguments_give_equal_tokens() -> None:
    one, two, other = (fake_tokens(count=9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.hidden, two.hidden)
    assert torch.equal(one.index, two.index)
    assert not torch.equal(one.hidden, other.hidden)


def test_what_an_earlier_stage_left_is_a_part_of_the_grid_in_raster_order() -> None:
    tokens = fake_tokens(batch=3, grid=(1, 3, 5), count=8)
    assert tokens.hidden.shape == (3, 8, 16)
    assert (tokens.index.diff(dim=1) > 0).all()
    assert tokens.index.max() < 15
    assert tokens.size.unique().tolist() == [1, 2, 3]


@pytest.mark.parametrize("site", [Site("encoder", 3, 12), Site("pre_llm", 12, 12), LLM], ids=str)
def test_every_signal_of_a_stage_can_be_made(site: Site) -> None:
    wanted = [signal for signal in Signal.shipped().values() if site.stage in signal.stages]
    tokens = fake_tokens(batch=3, grid=(1, 2, 5), site=site, signals=wanted)
    assert tokens.signals.keys() == {signal.name for signal in wanted}
    for signal in wanted:
        value = tokens.signal(signal)
        assert value.shape[0] == 3
        assert not signal.per_token or value.shape[1] == 10
        assert value.isfinite().all()


def test_attention_adds_up_as_in_a_model() -> None:
    made = fake_tokens(prefix=0, signals=[Signal.ATTENTION_GIVEN, Signal.ATTENTION_RECEIVED])
    torch.testing.assert_close(
        made.signal(Signal.ATTENTION_RECEIVED).sum(dim=1), torch.ones(2), rtol=1e-4, atol=1e-4
    )


def test_text_is_padded() -> None:
    made = fake_tokens(site=LLM, signals=[Signal.TEXT_PLACE, Signal.TEXT_STATES])
    assert made.signal(Signal.TEXT_PLACE).tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 1, -1]]


def test_alike_tokens_have_alike_signals() -> None:
    wanted = [Signal.KEYS, Signal.ATTENTION_RECEIVED, Signal("own", "[B, N] something")]
    made = fake_tokens(alike=True, signals=wanted)
    for value in (made.hidden, *made.signals.values()):
        torch.testing.assert_close(value, value[:, :1].expand_as(value))
    assert made.signals["own"].shape == (2, 16)


def test_a_stage_where_it_cannot_stand_is_refused() -> None:
    with pytest.raises(PlanError, match="decoder"):
        check_strategy(Longest, stages=["decoder"])
    with pytest.raises(PlanError, match="nothing"):
        check_strategy(Longest, {"nothing": 1})


def test_pytest_shows_each_demand(pytester: pytest.Pytester) -> None:
    pytester.makeconftest('pytest_plugins = ["tokenprune.testing.pytest_plugin"]')
    pytester.makepyfile(
        """
        from tests.contract.wrong_strategies import Wrong
        from tokenprune.testing.pytest_plugin import strategy_contract

        test_wrong = strategy_contract(Wrong, {"fault": "not ascending"}, stages=["pre_llm"])

        def test_fixture(check_strategy):
            check_strategy(Wrong, {"fault": "not ascending"}, stages=["pre_llm"])
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-rf")
    result.assert_outcomes(failed=2, passed=2, skipped=len(CHECKS) - 3)
    result.stdout.fnmatch_lines(
        ["*'t-wrong' at pre_llm: *strictly ascending*", "*pre_llm, answers: *strictly ascending*"]
    )


def test_the_command_line_tells_by_its_exit_code() -> None:
    run = CliRunner()
    with register_plugin(registering(Longest, Wrong), "kit"):
        right = run.invoke(app, ["check", "t-longest"], env={"COLUMNS": "100"})
        wrong = run.invoke(app, ["check", "t-wrong", "--set", "fault=one token", "--json"])
        told = run.invoke(
            app, ["check", "t-wrong", "--set", "fault=raises"], env={"COLUMNS": "400"}
        )
        unknown = run.invoke(app, ["check", "t-longst"])
    assert right.exit_code == 0
    assert "0 fail" in right.stdout
    assert wrong.exit_code == told.exit_code == 1
    assert told.stdout.count("not tried") == 1
    assert "later, odd sizes, video, " in told.stdout
    found = json.loads(wrong.stdout)
    assert not found["passed"]
    failed = [row for row in found["rows"] if row["status"] == "fail"]
    assert {row["key"] for row in failed} == {"answers"}
    assert unknown.exit_code == 2


def test_the_kit_imports_no_pytest_outside_of_its_plugin() -> None:
    root = Path(tokenprune.testing.__file__).parent
    modules = {path.stem: path.read_text() for path in root.glob("*.py")}
    assert "import pytest" in modules.pop("pytest_plugin")
    assert len(modules) > 5
    for name, source in modules.items():
        nodes = [*ast.walk(ast.parse(source))]
        imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
        imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not {one for one in imported if "pytest" in one}, name


def test_the_guide_lists_every_demand() -> None:
    page = (Path(__file__).parents[2] / "docs" / "writing-a-strategy.md").read_text()
    for key, check in CHECKS.items():
        assert check.__doc__ is not None
        assert f"| `{key}` | {check.__doc__.partition(chr(10))[0]} |" in page
