"""`compare` and `calibrate` on families whose pictures have any number of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenprune.cli.app import app
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.compare import Settings
from tokenprune.lab.compare.build import build_entries
from tokenprune.lab.compare.keeps import mllm_keeps
from tokenprune.plan import load_plan

Load = Callable[[str], LoadedMllm]


@pytest.mark.parametrize(
    ("name", "keeps"),
    [("qwen2_5_vl", [26, 10, 5, 2]), ("internvl", [18, 7, 3, 1]), ("gemma3", [3, 1])],
)
def test_default_budgets_are_shares_of_what_the_model_has(
    name: str, keeps: list[int], load: Load
) -> None:
    assert mllm_keeps(load(name), "image") == keeps


@pytest.mark.parametrize(("name", "told"), [("qwen2_5_vl", "no number is free"), ("internvl", "")])
def test_rows_that_no_position_ids_allow_are_left_out_once(
    name: str, told: str, load: Load
) -> None:
    entries, left_out = build_entries(load(name), Settings(keeps=(9,), family="pre_llm"))
    about = [one for one in left_out if "position ids" in one]
    assert len(about) == bool(told)
    assert all(one.startswith("rows with renumbered position ids") and told in one for one in about)
    positions = {entry.plan.positions for entry in entries}
    assert positions == ({"original"} if told else {"original", "compact"})


def run(*given: str) -> str:
    result = CliRunner().invoke(app, list(given))
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    (tmp_path / "p.yaml").write_text("stages: [{at: pre_llm, strategy: divprune, keep: 20}]")
    return ["--batch-size", "2"]


def test_equal_operations_are_solved_for_on_a_family(
    folder: Callable[[str], Path], tmp_path: Path, given: list[str]
) -> None:
    out = tmp_path / "c.json"
    command = ["compare", "--model", str(folder("internvl")), "--plans", str(tmp_path / "p.yaml")]
    run(*command, "--match", "flops", "--limit", "2", "--out", str(out), *given)
    record = json.loads(out.read_text())
    assert record["settings"]["match"] == "flops"
    assert len(record["results"]) == 1


def test_the_smallest_keep_is_found_on_a_family(
    folder: Callable[[str], Path], tmp_path: Path, given: list[str]
) -> None:
    (tmp_path / "p.yaml").write_text("stages: [{at: pre_llm, strategy: uniform, keep: 4}]")
    out = tmp_path / "found.yaml"
    command = ["calibrate", str(folder("gemma3")), str(tmp_path / "p.yaml"), "--limit", "1"]
    command += ["--flops", "0.97", "--out", str(out), "--records", str(tmp_path / "records")]
    run(*command, *given)
    assert 1 <= load_plan(out).stages[0].keep < 9  # type: ignore[operator]
