"""`compare` and `calibrate` on families whose pictures have any number of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tokenprune.cli.app import app
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.compare import Settings
from tokenprune.lab.compare.entries import build_entries
from tokenprune.lab.compare.keeps import Shown, mllm_keeps
from tokenprune.lab.data.pictures import heldout_questions
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.checks import failed_checks
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.run import measure
from tokenprune.lab.measure.task import VqaTask
from tokenprune.plan import PerTile, load_plan
from tokenprune.plugins.host import host

FIRST = heldout_questions(1)[0]
Load = Callable[[str], LoadedMllm]


@pytest.mark.parametrize(
    ("name", "keeps"),
    [("qwen2_5_vl", [26, 10, 5, 2]), ("internvl", [18, 7, 3, 1]), ("gemma3", [3, 1])],
)
def test_default_budgets_are_shares_of_what_the_model_has(
    name: str, keeps: list[int], load: Load
) -> None:
    shown = Shown.to(load(name), FIRST)
    assert mllm_keeps(shown.units, "image") == keeps
    assert shown.tiles == (5 if name == "internvl" else 1)


@pytest.mark.parametrize(("name", "told"), [("qwen2_5_vl", "no number is free"), ("internvl", "")])
def test_rows_that_no_position_ids_allow_are_left_out_once(
    name: str, told: str, load: Load
) -> None:
    entries, left_out = build_entries(load(name), Settings(keeps=(9,), family="pre_llm"), FIRST)
    about = [one for one in left_out if "position ids" in one]
    assert len(about) == bool(told)
    assert all(one.startswith("rows with renumbered position ids") and told in one for one in about)
    positions = {entry.plan.positions for entry in entries}
    assert positions == ({"original"} if told else {"original", "compact"})


def test_budgets_inside_towers_are_divided_among_tiles(load: Load) -> None:
    entries, _ = build_entries(load("internvl"), Settings(keeps=(18,), family="encoder"), FIRST)
    inside = {one.name: one for one in entries if one.plan.stages[0].at == "encoder"}
    assert inside["tome"].plan.stages[0].keep == PerTile(per_tile=3)
    assert (inside["tome"].keep, inside["tome"].peers) == ("per_tile: 3", "18")
    as_written, _ = build_entries(
        load("internvl"), Settings(keeps=(9,), family="encoder", match="stage"), FIRST
    )
    assert {one.plan.stages[0].keep for one in as_written if one.name == "tome"} == {9}


@pytest.mark.parametrize("name", ["internvl", "llava_next", "qwen2_vl"])
@pytest.mark.parametrize("keep", [5, 0.5])
def test_counts_inside_towers_are_those_of_tiles(name: str, keep: float, load: Load) -> None:
    shown = [Image.new("RGB", size, "red") for size in ((90, 60), (50, 90))]
    asked = [Question(one, "a", "what?", "", number) for number, one in enumerate(shown)]
    stages = [{"at": "encoder", "strategy": "random", "keep": keep}]
    stages += [{"at": "pre_llm", "strategy": "random", "keep": 4}]
    plan = load_plan({"stages": stages, "name": "inside"})
    found = measure(VqaTask(load(name), asked, 2, new_tokens=1), [Entry("inside", plan)])
    assert failed_checks(found, host().strategies) == []
    (row,) = found.plans
    assert (row.tiles > 1) is (name != "qwen2_vl")
    if keep == 5:
        assert row.tokens["encoder"] == pytest.approx(5 * row.tiles)
        row.tokens["encoder"] += 1
        assert len(failed_checks(found, host().strategies)) == 1


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
