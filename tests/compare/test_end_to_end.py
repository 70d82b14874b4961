"""Whole comparisons on tiny random models."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tokenprune.errors import BudgetError, DataError
from tokenprune.interface.loading import LoadedModel, LoadOptions
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.lab.compare import (
    Comparison,
    Settings,
    Source,
    compare,
    tables,
    write_record,
)
from tokenprune.lab.compare.entries import build_entries
from tokenprune.lab.data.pictures import heldout_questions
from tokenprune.lab.models import load_model
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host

OPTIONS = LoadOptions()
#: A plan has to name the tower of these, so they stand in no comparison by default.
WITH_TEXT_TOWER = ("trim", "cdpruner_clip")


def source(loaded: LoadedModel, settings: Settings, *pictures: Path) -> Source:
    """A model that is loaded already, compared on folder and labels if it is an encoder."""
    return Source(loaded.name, OPTIONS, settings, *pictures)


@pytest.fixture(scope="module")
def found(llava: LoadedModel) -> Comparison:
    told: list[tuple[int, int, str]] = []
    settings = Settings(keeps=(9,), limit=4, batch_size=4, every=True, match="stage")
    result = compare(source(llava, settings), llava, progress=lambda *news: told.append(news))
    assert [done for done, _, _ in told] == list(range(told[-1][1]))
    return result


def test_every_training_free_strategy_stands_at_every_budget(
    llava: LoadedModel, found: Comparison
) -> None:
    kinds = host().strategies
    free = {
        name: kind
        for name, kind in kinds.items()
        if not issubclass(kind, TrainableStrategy) and name not in WITH_TEXT_TOWER
    }
    fixed = {name for name, kind in free.items() if kind.length != "own"}
    several = Settings(keeps=(16, 9), every=True, match="stage")
    entries, _ = build_entries(llava, several, heldout_questions(1)[0])
    at = {(entry.name, entry.keep) for entry in entries if entry.group == "plans"}
    main = {(row.name, row.keep) for row in found.results if row.run.entry.group == "plans"}
    assert {(name, keep) for name, keep in at if keep == "9" or keep.startswith("own")} <= main
    assert {(name, keep) for name in fixed for keep in ("16", "9")} <= at
    assert {(name, "own") for name in free.keys() - fixed - {"prumerge"}} <= at
    assert {("vscan 2-stage", f"avg {keep} + 0.333") for keep in (16, 9)} <= at
    # the tiny model's LLM sees the tower's last block, and prumerge reads the one behind that
    lacking = {line.split()[0]: line for line in found.left_out}
    assert lacking.keys() == {"prumerge", *WITH_TEXT_TOWER}
    assert "'prumerge' needs cls_attention_joined" in lacking["prumerge"]


def test_own_budgets_stand_beside_random_with_as_many_tokens(found: Comparison) -> None:
    own = [row for row in found.results if row.keep.startswith("own")]
    # where all tokens stay, random would drop nothing: videos' methods leave a picture as it is
    fewer = [row for row in own if round(row.tokens["llm_average"]) < 36]
    assert {row.name for row in own} - {row.name for row in fewer} <= {"dycoke"}
    assert fewer
    for row in fewer:
        keep = str(max(1, round(row.tokens["llm_average"])))
        (beside, *_) = [r for r in found.results if (r.name, r.keep) == ("random", keep)]
        assert row.versus_random is not None
        assert row.versus_random.value == pytest.approx(row.accuracy.value - beside.accuracy.value)
        assert row.lengths is not None
        assert row.lengths["least"] <= row.lengths["middle"] <= row.lengths["most"]
        assert row.lengths["least"] <= row.tokens["llm_average"] <= row.lengths["most"]


def test_position_ids_stand_side_by_side_once(found: Comparison) -> None:
    again = [row for row in found.results if row.run.entry.group != "plans"]
    assert {row.name for row in again} == {"evoprune", "aim", "random"}
    assert {row.positions for row in again} == {"compact"}
    assert {row.keep for row in again} == {"9"}


def test_measured_counts_are_the_plans(found: Comparison) -> None:
    assert found.failures == []
    assert found.dense.tokens["llm"] == found.dense.tokens["llm_average"] == 36
    for row in found.results:
        if not row.keep.isdecimal():
            continue
        keep = int(row.keep)
        if row.name == "fastv":
            assert row.tokens["decoder[2]"] == keep
            assert row.tokens["llm"] == 36
            assert row.tokens["llm_average"] == pytest.approx((2 * 36 + 2 * keep) / 4)
        elif row.name == "ipcv":
            assert row.tokens["encoder_inside"] == keep
            assert row.tokens["llm"] == 36
        elif row.run.entry.plan.stages[0].at == "decoder":
            counted = [n for key, n in row.tokens.items() if key.startswith("decoder[")]
            assert min(counted) == keep
            assert row.tokens["llm"] == 36
        else:
            assert row.tokens["llm"] == keep


def test_pruning_saves_operations_and_every_stage_is_timed(found: Comparison) -> None:
    assert found.dense.run.flops > 0
    for row in found.results:
        assert 0.05 < row.flops_ratio < 1.1
        assert row.total.value == pytest.approx(sum(row.run.wall) / sum(row.run.dense_wall))
        for stage in ("encode", "select", "project", "prefill", "decode"):
            assert row.seconds[stage] > 0
            share = row.time[stage]
            assert share is not None
            assert share > 0


def test_the_model_is_as_before(llava: LoadedModel, llava_folder: Path, found: Comparison) -> None:
    assert found.model["sha256"] == llava.fingerprint()
    fresh = load_model(str(llava_folder), OPTIONS).model.state_dict()
    kept = llava.model.state_dict()
    assert fresh.keys() == kept.keys()
    assert all(torch.equal(fresh[key], kept[key]) for key in fresh)
    assert not any("forward" in vars(module) for module in llava.model.modules())


def test_the_record_is_complete_json(found: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("older")
    write_record(found, path, answers=True)
    data = json.loads(path.read_text())
    assert data["schema_version"] == 1
    assert len(data["model"]["sha256"]) == 64
    assert data["environment"]["packages"]["torch"]
    assert data["task"]["samples"] == len(data["dense"]["answers"]) == 4
    for row in (data["dense"], *data["results"]):
        assert len(row["right"]) == 4
        assert sum(row["right"]) / 4 == row["accuracy"]["value"]
    assert data["results"][0]["plan"].startswith("schema_version: 1")
    assert load_plan(found_plan(data)).stages[0].keep == 9
    assert list(tmp_path.iterdir()) == [path]
    write_record(found, path)
    assert not {"answers", "right"} & json.loads(path.read_text())["dense"].keys()


def found_plan(data: dict[str, object]) -> dict[str, object]:
    import yaml

    results = data["results"]
    assert isinstance(results, list)
    plan = yaml.safe_load(results[0]["plan"])
    assert isinstance(plan, dict)
    return plan


def test_a_record_that_cannot_be_written_is_an_error(found: Comparison, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be written"):
        write_record(found, tmp_path / "absent" / "record.json")


@pytest.mark.parametrize("width", [80, 120, 200])
def test_tables_name_every_plan_and_fit(found: Comparison, width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in tables(found, width, types=True):
        console.print(part)
    text = console.export_text()
    for name in ("dense", "evoprune", "aim, compact", "fastv", "ipcv", "prefill", "FLOPs"):
        assert name in text
    assert "all are restored after it" in " ".join(text.split())


def test_equal_seeds_give_equal_answers(llava: LoadedModel) -> None:
    stages = [{"at": "pre_llm", "strategy": "random", "keep": 9}]
    plans = [("mine", load_plan({"seed": seed, "stages": stages})) for seed in (0, 0, 1)]
    same = Settings(plans, limit=6, batch_size=6)
    one, two = (compare(source(llava, same), llava) for _ in range(2))
    assert [r.run.answers for r in one.results] == [r.run.answers for r in two.results]
    assert [row.accuracy for row in one.results] == [row.accuracy for row in two.results]
    assert one.results[0].run.answers == one.results[1].run.answers


def test_a_budget_that_cannot_be_reached_ends_the_run(llava: LoadedModel) -> None:
    with pytest.raises(BudgetError):
        compare(source(llava, Settings(keeps=(37,), limit=2)), llava)


@pytest.fixture(scope="module")
def vit(timm_weights: Path) -> LoadedModel:
    return load_model("timm:test_vit", LoadOptions(weights=timm_weights))


def test_classifier(vit: LoadedModel, pictures: Path) -> None:
    settings = Settings(keeps=(30,), batch_size=3)
    found = compare(source(vit, settings, pictures, pictures / "labels.csv"), vit)
    assert found.kind == "classifier"
    assert found.failures == []
    assert {row.name for row in found.results} >= {"evoprune", "tome", "random", "uniform", "fopru"}
    for row in found.results:
        key = "encoder_inside" if row.name == "ipcv" else "encoder"
        assert row.tokens[key] == 30
        assert row.flops_ratio < 1


def test_halves_of_the_pictures_differ(vit: LoadedModel, pictures: Path) -> None:
    plan = load_plan({"stages": [{"at": "encoder", "strategy": "tome", "keep": 50}]})
    labels = pictures / "labels.csv"
    halves = [
        compare(source(vit, settings, pictures, labels), vit)
        for settings in (
            Settings([("mine", plan)], split="first"),
            Settings([("mine", plan)], keeps=(60, 40), split="second"),
        )
    ]
    assert [half.task["samples"] for half in halves] == [3, 3]
    assert halves[0].task["sha256"] != halves[1].task["sha256"]
    assert [row.keep for half in halves for row in half.results] == ["50", "60", "40"]
    assert {row.name for half in halves for row in half.results} == {"mine"}


def test_a_classifier_needs_pictures(vit: LoadedModel) -> None:
    with pytest.raises(DataError, match="labelled pictures"):
        compare(source(vit, Settings()), vit)
