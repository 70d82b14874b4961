"""Comparisons on clips: questions with several pictures, plans that take them as frames."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedModel, LoadOptions
from tokenprune.lab.compare import Comparison, Settings, Source, compare
from tokenprune.lab.compare.table import legend
from tokenprune.lab.data.pictures import heldout_clip_questions
from tokenprune.lab.models import load_model
from tokenprune.plan import load_plan
from tokenprune.reference import CLIP_TYPES

OPTIONS = LoadOptions()


def source(loaded: LoadedModel, settings: Settings) -> Source:
    return Source(loaded.name, OPTIONS, settings)


@pytest.fixture(scope="module")
def found(llava: LoadedModel) -> Comparison:
    stages = [{"at": "pre_llm", "strategy": "fopru", "keep": 9}]
    plans = [("mine", load_plan({"stages": stages})), ("dense too", load_plan({"stages": []}))]
    return compare(source(llava, Settings(plans, limit=3, batch_size=2, task="video")), llava)


def test_clips_are_asked_about_once_before_twice() -> None:
    questions = heldout_clip_questions(4)
    assert len({question.image_id for question in questions}) == 4
    assert {len(question.image) for question in questions} == {8}
    assert {question.kind for question in questions} <= {*CLIP_TYPES}


def test_every_plan_takes_the_pictures_as_frames(found: Comparison) -> None:
    assert found.failures == []
    assert all(row.run.plan.images == "frames" for row in found.results)
    assert found.settings["task"] == "video"
    assert found.task["name"].endswith("clips")
    assert found.task["samples"] == 3
    assert any("per frame" in line for line in legend(found))


def test_budgets_count_per_frame(found: Comparison) -> None:
    mine, idle = found.results
    assert mine.tokens["llm"] == 9
    assert idle.tokens["llm"] == 36
    assert idle.run.answers == found.dense.run.answers


def test_what_cannot_be_asked_about_videos(llava: LoadedModel, timm_weights: Path) -> None:
    with pytest.raises(DataError, match="no choice 'film'"):
        Settings(task="film")
    vit = load_model("timm:test_vit", LoadOptions(weights=timm_weights))
    with pytest.raises(DataError, match="an encoder answers no questions"):
        compare(source(vit, Settings(task="video")), vit)


def test_every_default_plan_runs_on_videos(llava: LoadedModel) -> None:
    settings = Settings(
        task="video", keeps=(9,), limit=1, batch_size=1, positions="original", match="stage",
        every=True,
    )  # fmt: skip
    found = compare(source(llava, settings), llava)
    assert found.failures == []
    # prumerge reads a block behind the last one that this tiny model uses; the others want a tower
    left_out = {line.split()[0] for line in found.left_out}
    assert left_out == {"prumerge", "cdpruner_clip", "trim"}
    rows = {row.name: row for row in found.results}
    for name in ("evoprune", "evoprune temporal"):
        assert rows[name].tokens["llm"] == 9, "equal budgets"
    assert rows["evoprune temporal"].run.plan.stages[0].params["temporal"] is True
    assert {row.name for row in found.results} >= {"prunevid", "prunevid 2-stage", "vscan"}
