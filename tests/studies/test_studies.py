"""Studies: what is run, what is recorded, and what a second run repeats."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.models import IMAGE, PATCHES, SIDE
from tests.processes import killed, started
from tokenprune import hookimpl
from tokenprune.errors import DataError, PlanError
from tokenprune.interface.metric import Answered, Metric
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.measure.code import digest
from tokenprune.lab.studies import LocalRunner, Store, Study, cells, load_study, run_study
from tokenprune.lab.studies.run import identified
from tokenprune.lab.studies.summary import summarise
from tokenprune.plugins.host import register_plugin

PLAN = {"stages": [{"at": "pre_llm", "strategy": "uniform", "keep": 8}]}

NAMES = ["dense"] + [f"picked keep={k} strategy={s}" for k in (8, 4) for s in ("random", "uniform")]


def change(path: Path, **changes: object) -> None:
    data = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump(data))


def test_a_grid_makes_a_cell_of_every_combination(study: Path) -> None:
    found = cells(load_study(study))
    assert [cell.name for cell in found] == NAMES
    assert found[3].plan.stages[0].keep == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": []}, "plans"),
        ({"plans": []}, "plans"),
        ({"plans": [{"plan": "missing.yaml"}]}, "missing.yaml"),
        ({"plans": [{"plan": {"stages": []}}, {"plan": {"stages": []}}]}, "called"),
        ({"tasks": [{"kind": "pictures"}]}, "path"),
    ],
)
def test_a_bad_study_names_the_key(study: Path, changes: dict[str, object], words: str) -> None:
    change(study, **changes)
    with pytest.raises(PlanError) as caught:
        cells(load_study(study))
    assert words in str(caught.value)


def test_a_plan_that_does_not_fit_ends_it_before_anything_runs(study: Path) -> None:
    late = {"at": "decoder", "strategy": "fastv", "layer": 99, "keep": 4}
    change(study, plans=[{"plan": {"stages": [late]}, "name": "late"}])
    with pytest.raises(PlanError, match="no layer 99"):
        run_study(load_study(study))
    assert not list((study.parent / "records" / "cells").glob("*.json"))


def path_of(study: Study, number: int) -> Path:
    """The record of one of the study's cells."""
    return Store(study.out).path(digest(identified(study)[number][1]))


def test_a_second_run_repeats_nothing_and_says_the_same(study: Path) -> None:
    loaded = load_study(study)
    first, second = run_study(loaded), run_study(loaded)
    assert len(first.ran) == len(NAMES) == len(first.records)
    assert (second.ran, second.failed, second.elsewhere) == ([], {}, [])
    assert [r.key for r in second.records] == [r.key for r in first.records]
    result = first.records[1].result
    keys = {"number", "group", "kind", "answer", "right", "scores"}
    assert set(result["samples"][0]) == keys
    assert result["tokens"]["llm"] == 8
    assert Store(loaded.out).noted() == ("study", [r.key for r in first.records])


def test_records_show_what_was_kept(finished: Path) -> None:
    records = run_study(load_study(finished)).records
    for record, kept in zip(records, (PATCHES, 8, 8, 4, 4), strict=True):
        shown = record.result["shown"]
        assert [len(sample["frames"]) for sample in shown] == [1, 1, 1]
        frame = shown[0]["frames"][0]
        assert frame["grid"] == [SIDE, SIDE]
        assert len(frame["owner"]) == PATCHES
        left = {owner for owner in frame["owner"] if owner >= 0}
        assert len(left) == kept
        assert all(frame["owner"][place] == place for place in left)
        header, _, data = frame["picture"].partition(",")
        assert header == "data:image/jpeg;base64"
        assert Image.open(BytesIO(base64.b64decode(data))).size == (IMAGE, IMAGE)


def test_records_hold_what_their_answers_come_to(finished: Path) -> None:
    """The tiny model is always wrong, so the right answers are made those of some cells."""
    loaded = load_study(finished)
    first = run_study(loaded).records
    dense = [sample["answer"] for sample in first[0].result["samples"]]
    path = finished.parent / "asked.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, answer in zip(rows, [*dense[:3], *("never said",) * 3], strict=True):
        row["answer"] = answer
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for record in run_study(loaded).records:
        result, answers = record.result, [s["answer"] for s in record.result["samples"]]
        right = [answers[at] == dense[at] for at in range(3)]
        assert result["accuracy"]["value"] == pytest.approx(sum(right) / 6)
        assert result["accuracy"]["low"] <= result["accuracy"]["value"]
        assert result["versus_dense"]["value"] == pytest.approx((sum(right) - 3) / 6)
        same = [a == b for a, b in zip(answers, dense, strict=True)]
        assert result["agreement"] == pytest.approx(sum(same) / 6)
        lost = right.count(False)
        assert result["mcnemar"] == pytest.approx(min(1.0, 2 * 0.5**lost))


def test_a_cell_that_cannot_be_drawn_is_measured_all_the_same(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no picture today")

    loaded = load_study(finished)
    path_of(loaded, 1).unlink()
    monkeypatch.setattr("tokenprune.lab.studies.samples.thumbnail", broken)
    done = run_study(loaded)
    assert (len(done.ran), done.failed) == (1, {})
    assert done.records[1].result["shown"] == []
    assert "no picture today" in done.records[1].result["not_shown"]


def test_an_edited_record_is_noticed_and_run_again(finished: Path) -> None:
    loaded = load_study(finished)
    path = sorted((loaded.out / "cells").glob("*.json"))[0]
    data = json.loads(path.read_text())
    data["result"]["flops"] = 1.0
    path.write_text(json.dumps(data))
    again = run_study(loaded)
    assert list(again.damaged) == [path.stem]
    assert len(again.ran) == 1
    assert run_study(loaded).ran == []


@pytest.mark.parametrize("text", ["", "{", '{"identity": {}}'])
def test_a_record_cut_off_is_noticed(finished: Path, text: str) -> None:
    loaded = load_study(finished)
    path = sorted((loaded.out / "cells").glob("*.json"))[0]
    path.write_text(text)
    assert list(run_study(loaded).damaged) == [path.stem]


def test_other_data_and_other_metrics_are_other_cells(study: Path) -> None:
    loaded = load_study(study)
    before = {digest(about) for _, about in identified(loaded)}
    more = loaded.model_copy(update={"metrics": ("length",)})
    with pytest.raises(DataError, match="no metric 'length'"):
        identified(more)
    with register_plugin(Lengths(), "lengths"):
        assert before.isdisjoint(digest(about) for _, about in identified(more))
    asked = study.parent / "asked.jsonl"
    asked.write_text(asked.read_text().replace('"yes"', '"no"', 1))
    assert before.isdisjoint(digest(about) for _, about in identified(loaded))


class Lengths:
    """A plugin, and the metric it brings."""

    name = "length"

    @hookimpl
    def register_metrics(self, register: Callable[[Metric], None]) -> None:
        register(self)

    def score(self, samples: Sequence[Answered]) -> list[float]:
        return [float(len(sample.right)) for sample in samples]


def test_a_plugins_metric_is_recorded_and_summed_up(study: Path) -> None:
    change(study, metrics=["length"], plans=[{"plan": PLAN, "name": "ours"}])
    with register_plugin(Lengths(), "lengths"):
        done = run_study(load_study(study))
    assert done.records[1].result["samples"][0]["scores"]["length"] == 3.0
    rows = summarise(done.records)[0].rows
    assert [row.metrics["length"].value for row in rows] == [3.0, 3.0]


def test_a_failing_cell_is_recorded_and_the_others_go_on(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenprune_strategies.baselines import Uniform

    def broken(*_: object) -> None:
        raise ValueError("out of luck")

    loaded = load_study(finished)
    for number in (1, 2, 4):  # random, and uniform twice
        path_of(loaded, number).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(Uniform, "reduce", broken)
        done = run_study(loaded)
    assert (len(done.ran), len(done.failed), len(done.records)) == (3, 2, 5)
    assert all("out of luck" in reason for reason in done.failed.values())
    again = run_study(loaded)
    assert (len(again.ran), again.failed) == (2, {})


def test_processes_give_the_same_answers(finished: Path) -> None:
    loaded = load_study(finished)
    before = [record.result["samples"] for record in run_study(loaded).records]
    path_of(loaded, 2).unlink()
    path_of(loaded, 3).unlink()
    done = run_study(loaded, LocalRunner(jobs=2))
    assert len(done.ran) == 2
    assert [record.result["samples"] for record in done.records] == before


def test_a_run_beside_a_claim_is_killed_and_taken_up(study: Path) -> None:
    loaded = load_study(study)
    store, first = Store(loaded.out), digest(identified(loaded)[0][1])
    with store.claimed(first) as mine:
        assert mine
        with killed(started(run_study, loaded), lambda: any(loaded.out.glob("cells/*.json"))):
            pass
        # cells run in their order, so the other process passed the claimed one over
        assert not store.path(first).exists()
        kept = len(list((loaded.out / "cells").glob("*.json")))
        assert kept >= 1
        done = run_study(loaded)
        assert (len(done.ran), len(done.elsewhere)) == (len(NAMES) - 1 - kept, 1)
    done = run_study(loaded)
    assert (len(done.ran), len(done.records), done.damaged) == (1, len(NAMES), {})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON"),
        ('{"image": "0.png", "question": "a"}', "'answer'"),
        ('{"image": "none.png", "question": "a", "answer": "b"}', "no picture"),
        ('{"question": "a", "answer": "b"}', "names no picture"),
    ],
)
def test_bad_lines_name_file_and_line(study: Path, line: str, words: str) -> None:
    path = study.parent / "asked.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        read_jsonl(path)
    assert caught.value.where == f"{path}:7"
