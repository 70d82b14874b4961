"""The local task for lmms-eval, and how its answers are put beside those of `compare`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import yaml

from benchmarks.lmms_eval_agreement import Row, Run, _read, row
from benchmarks.lmms_eval_task import NAME, write_task
from tokenprune.lab.data.pictures import heldout_questions
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.task import VqaTask

QUESTIONS = heldout_questions(4)
ROW = Row("m", "p", 0.5, 0.5, 2, 0, {"llm": 20.0}, {"llm": 20.0, "patches": 196.0})


@pytest.fixture
def task(tmp_path: Path) -> Path:
    write_task(tmp_path, QUESTIONS)
    return tmp_path


def functions(folder: Path) -> ModuleType:
    """The functions of the task, loaded as lmms-eval loads them: from the file, by no name."""
    spec = importlib.util.spec_from_file_location("heldout", folder / "heldout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_samples_are_those_of_compare(task: Path) -> None:
    used = functions(task)
    samples = [json.loads(line) for line in (task / "samples.jsonl").read_text().splitlines()]
    for sample, question in zip(samples, QUESTIONS, strict=True):
        (picture,) = used.to_visual(sample)
        assert np.array_equal(np.asarray(picture), np.asarray(question.image))
        assert (used.to_text(sample), used.to_target(sample)) == (question.text, question.answer)


@pytest.mark.parametrize("answer", ["two", " Two. ", "TWO!", "twos", "", "two two"])
def test_the_score_is_that_of_compare(task: Path, answer: str) -> None:
    right = VqaTask.right(object.__new__(VqaTask), answer, Question(None, "two"))
    assert functions(task).score({"answer": "two"}, [answer]) == {"accuracy": float(right)}


def test_the_task_names_functions_that_exist(task: Path) -> None:
    class Loader(yaml.SafeLoader):
        pass

    used = functions(task)
    Loader.add_constructor("!function", lambda _, node: getattr(used, node.value.split(".")[1]))
    read = yaml.load((task / f"{NAME}.yaml").read_text(), Loader)
    assert read["task"] == NAME
    assert read["process_results"] is used.score
    assert (task / read["dataset_kwargs"]["data_files"]["test"]).is_file()


def test_what_lmms_eval_wrote_is_read(tmp_path: Path) -> None:
    results = {
        "results": {NAME: {"accuracy,none": 0.5}},
        "throughput": {"avg_speed": 3.0, "avg_tokens_llm": 20.0},
    }
    (tmp_path / "1_results.json").write_text(json.dumps(results))
    lines = [{"doc_id": 1, "filtered_resps": ["b"]}, {"doc_id": 0, "filtered_resps": "a"}]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / f"1_samples_{NAME}.jsonl").write_text(text)
    assert _read(tmp_path) == Run(0.5, ["a", "b"], {"llm": 20.0})
    (tmp_path / "2_results.json").write_text("{}")
    with pytest.raises(SystemExit, match="2 files"):
        _read(tmp_path)


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        ({}, True),
        ({"different_answers": 1}, False),
        ({"accuracy": 0.51}, False),
        ({"tokens": {"llm": 21.0}}, False),
        ({"tokens": {}}, True),
    ],
)
def test_a_row_agrees_if_nothing_differs(change: dict[str, object], agrees: bool) -> None:
    assert Row(**{**vars(ROW), **change}).agrees is agrees


def test_answers_are_counted_sample_by_sample() -> None:
    result = SimpleNamespace(
        name="p",
        run=SimpleNamespace(answers=["a", "b"]),
        accuracy=SimpleNamespace(value=1.0),
        tokens={},
    )
    assert row("m", Run(1.0, ["a ", "c"], {}), result).different_answers == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="longer"):
        row("m", Run(1.0, ["a"], {}), result)  # type: ignore[arg-type]
