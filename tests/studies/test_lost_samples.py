"""Samples that can't be read: named before anything runs, or left out alone and said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from tests.compare.clips import save_animation
from tests.reporting import made
from tests.studies.test_studies import change
from tokenprune.cli.app import app
from tokenprune.errors import DataError, DependencyError
from tokenprune.lab.data import checking
from tokenprune.lab.data.checking import NAMED, check_samples
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.data.question import Question
from tokenprune.lab.judge.measured import runs_of, samples_of
from tokenprune.lab.measure.checks import failed_checks
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.measurement import Beside, Measured, Measurement, joined
from tokenprune.lab.measure.preparing import MOST_LOST, Preparing
from tokenprune.lab.measure.task import Task
from tokenprune.lab.studies import load_study, run_study
from tokenprune.lab.studies.store import Record
from tokenprune.lab.studies.summary import summarise
from tokenprune.plan import Plan

run = CliRunner().invoke


def bad_row(study: Path, number: int = 1) -> None:
    """Cut the picture of two of the six rows."""
    picture = study.parent / f"{number}.png"
    picture.write_bytes(picture.read_bytes()[:60])


def test_unreadable_pictures_end_a_study_before_it_runs(study: Path) -> None:
    bad_row(study)
    result = run(app, ["study", str(study)])
    assert result.exit_code == 2
    assert "asked.jsonl:2" in result.output
    assert "can't be read" in result.output
    assert "--check-data 0" in result.output
    assert not [*(study.parent / "records" / "cells").glob("*.json")]


def test_unchecked_they_cost_their_own_samples(study: Path) -> None:
    stage = {"at": "pre_llm", "strategy": "uniform", "keep": 8}
    change(study, plans=[{"plan": {"stages": [stage]}, "name": "picked"}], add_random=False)
    rows = (study.parent / "asked.jsonl").read_text()
    (study.parent / "asked.jsonl").write_text(rows * 2)
    (study.parent / "broken.png").write_bytes(b"no picture")
    with (study.parent / "asked.jsonl").open("a") as file:
        file.write(json.dumps({"image": "broken.png", "question": "what ?", "answer": "a"}) + "\n")
    done = run_study(load_study(study), check=0)
    assert not done.failed
    for record in done.records:
        assert [one["number"] for one in record.result["samples"]] == [*range(12)]
        (lost,) = record.result["left_out"]
        assert lost["number"] == 12
        assert "asked.jsonl:13: " in lost["reason"]
        assert "broken.png: the picture can't be read" in lost["reason"]
    (group,) = summarise(done.records)
    for row in group.rows:
        assert len(row.run.right) == 12
        (warning,) = [one for one in row.warnings if "left out" in one]
        assert warning.startswith("1 of 13 samples are left out, so all numbers are over 12")
    result = run(app, ["study", str(study), "--check-data", "0"])
    assert result.exit_code == 0
    assert "asked.jsonl:13" in result.output


def test_too_many_lost_samples_fail_the_cell(study: Path) -> None:
    bad_row(study)
    done = run_study(load_study(study), check=0)
    assert len(done.failed) == len(done.ran)
    for reason in done.failed.values():
        assert "2 of 6 samples can't be asked" in reason
        assert "asked.jsonl:2" in reason


def test_a_question_beyond_the_positions_is_lost_alone(study: Path) -> None:
    row = {"image": "0.png", "question": "what " * 3000, "answer": "a"}
    with (study.parent / "asked.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    change(study, plans=[{"plan": {"stages": []}, "name": "nothing"}])
    for record in run_study(load_study(study)).records:
        (lost,) = record.result["left_out"]
        assert "asked.jsonl:7" in lost["reason"]
        assert "positions" in lost["reason"]


def rows(folder: Path, *names: str) -> list[Question]:
    lines = [{"image": name, "question": "?", "answer": "a"} for name in names]
    (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_jsonl(folder / "q.jsonl")


def pictures(folder: Path, good: int, bad: int) -> list[str]:
    for number in range(good + bad):
        path = folder / f"{number}.png"
        Image.new("RGB", (4, 4)).save(path)
        if number >= good:
            path.write_bytes(path.read_bytes()[:20])
    return [f"{number}.png" for number in range(good + bad)]


def test_all_bad_rows_are_named_up_to_a_few(tmp_path: Path) -> None:
    names = pictures(tmp_path, 3, NAMED + 2)
    check_samples(rows(tmp_path, *names[:3]))
    with pytest.raises(DataError) as caught:
        check_samples(rows(tmp_path, *names))
    said = str(caught.value)
    assert f"{NAMED + 2} of {NAMED + 5} pictures and videos" in said
    assert [f"q.jsonl:{line}:" in said for line in range(4, 11)] == [True] * NAMED + [False] * 2
    assert "and 2 more" in said


def test_a_file_is_opened_once_and_a_large_set_in_part(tmp_path: Path) -> None:
    names = pictures(tmp_path, 1, 1)
    with pytest.raises(DataError) as caught:
        check_samples(rows(tmp_path, *names, *names, *names))
    assert caught.value.where.endswith("q.jsonl:2")
    names = pictures(tmp_path, 99, 1)
    check_samples(rows(tmp_path, *names), 10)
    check_samples(rows(tmp_path, *names), 0)
    with pytest.raises(DataError):
        check_samples(rows(tmp_path, *names), 100)


def test_of_many_clips_fewer_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        save_animation(tmp_path / f"{number}.gif", 3)
    (tmp_path / "4.gif").write_bytes(b"GIF89a")
    lines = [{"video": f"{n}.gif", "question": "?", "answer": "a"} for n in range(9)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = read_jsonl(tmp_path / "q.jsonl", frames=2)
    monkeypatch.setattr(checking, "CHECKED_CLIPS", 2)
    check_samples(questions)
    with pytest.raises(DataError) as caught:
        check_samples(questions, 9)
    assert caught.value.where.endswith("q.jsonl:5")


def test_clips_and_pictures_of_data_sets_are_opened_too(tmp_path: Path) -> None:
    path = save_animation(tmp_path / "a.gif", 6)
    line = {"video": "a.gif", "question": "?", "answer": "a"}
    (tmp_path / "q.jsonl").write_text(json.dumps(line) + "\n")
    check_samples(read_jsonl(tmp_path / "q.jsonl", frames=3))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match="can't be read"):
        check_samples(read_jsonl(tmp_path / "q.jsonl", frames=3))
    with pytest.raises(DataError):
        check_samples([Question(b"bytes", "a", where="set: row 0")])


class Picky(Task):
    """Asks numbers; some of them raise when they are prepared."""

    kind = "mllm"

    def __init__(self, bad: dict[int, Exception], total: int, batch: int, most: int = 99) -> None:
        questions = [Question(number, "a", image_id=number) for number in range(total)]
        super().__init__(torch.nn.Linear(1, 1), questions, batch)
        self.bad, self.most = bad, most

    def inputs(self, batch: Any) -> list[int]:
        numbers = [question.image for question in batch]
        for number in numbers:
            if number in self.bad:
                raise self.bad[number]
        if len(batch) > self.most:
            raise ValueError("the batch is too large")
        return numbers

    def call(self, inputs: Any) -> Tensor:
        return torch.tensor(inputs)

    def read(self, inputs: Any, output: Tensor) -> list[str]:
        return [str(number) for number in inputs]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_of_batches_is_what_can_be_prepared(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bad = {int(n): ValueError("odd") for n in rng.choice(40, size=int(rng.integers(11)))}
    preparing = Preparing(Picky(bad, 40, 7))
    ready = list(preparing.batches())
    assert [n for one in ready for n in one.numbers] == [n for n in range(40) if n not in bad]
    assert [one.inputs for one in ready] == [one.numbers for one in ready]
    assert set(preparing.lost) == set(bad)
    assert all(why.endswith(": ValueError: odd") for why in preparing.lost.values())


def test_what_no_single_sample_is_to_blame_for_is_raised() -> None:
    with pytest.raises(ValueError, match="batch is too large"):
        list(Preparing(Picky({}, 8, 4, most=3)).batches())
    for error in (MemoryError(), DependencyError("none")):
        with pytest.raises(type(error)):
            list(Preparing(Picky({3: error}, 8, 4)).batches())


def test_the_share_that_may_be_lost() -> None:
    total = 20
    most = int(MOST_LOST * total)
    odd: list[Exception] = [DataError("odd", where="here")] * total
    assert len(list(Preparing(Picky(dict(enumerate(odd[:most])), total, 4)).batches())) == 4
    with pytest.raises(DataError, match=f"{most + 1} of {total}.*The first: sample 1: here: odd"):
        list(Preparing(Picky(dict(enumerate(odd[: most + 1])), total, 4)).batches())


def measured(answers: dict[int, str], lost: dict[int, str]) -> Measurement:
    beside = Beside([1.0], [1.0], {})
    dense, idle, plan = (Measured(None, answers, [1.0], beside=beside) for _ in range(3))
    for one in (idle, plan):
        one.entry = Entry("dense", Plan())
    return Measurement(dense, idle, [plan], lost=lost)


def test_parts_that_lost_other_samples_are_joined_over_the_rest() -> None:
    one = measured({0: "a", 2: "b", 3: "a"}, {1: "gone"})
    two = measured({0: "a", 1: "c", 3: "a"}, {2: "gone too"})
    whole = joined([one, two], [[0], [1]])
    assert whole.lost == {1: "gone", 2: "gone too"}
    assert whole.numbers == [0, 3]
    task = Picky({}, 4, 2)
    assert samples_of(task, whole).images == [0, 3]
    for found in runs_of(task, whole):
        assert (found.answers, [*found.right], len(found.lost)) == (["a", "a"], [1.0, 1.0], 2)
    whole.plans.clear()
    assert not failed_checks(whole, {})


def test_cells_that_lost_other_samples_are_judged_on_the_common_ones() -> None:
    first, second = made.record("dense", None), made.record("fopru-8", "fopru")
    samples = [{**one, "number": n} for n, one in enumerate(second.result["samples"])]
    shorter = {**second.result, "samples": samples[:2] + samples[3:]}
    lost = [{"number": 2, "reason": "q.jsonl:3: cut"}]
    records = [first, Record(second.identity, "done", {**shorter, "left_out": lost})]
    (group,) = summarise(records)
    for row, ran in zip(group.rows, (6, 5), strict=True):
        assert [*row.run.right] == [True, True, True, False, True]
        assert any(one.startswith("1 of 6 samples") for one in row.warnings)
        # the dense cell's times are of all samples that it ran on
        assert any("FLOPs and time over 6" in one for one in row.warnings) == (ran == 6)
        assert row.seconds == {name: spent / ran for name, spent in row.run.seconds.items()}
        assert row.seconds
    assert any("q.jsonl:3: cut" in one for one in group.rows[1].warnings)
