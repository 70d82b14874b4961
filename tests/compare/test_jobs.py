"""Processes that share a comparison's plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenprune.errors import CheckpointError
from tokenprune.interface.loading import LoadOptions
from tokenprune.lab.compare import Settings, Source, compare
from tokenprune.lab.measure.checks import failed_checks
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.measurement import Measured, Measurement, joined
from tokenprune.lab.models import load_model
from tokenprune.plan import Plan, load_plan
from tokenprune.plugins.host import host

OPTIONS = LoadOptions()


def plans(*keeps: int) -> list[tuple[str, Plan]]:
    stages = [[{"at": "pre_llm", "strategy": "random", "keep": keep}] for keep in keeps]
    return [(f"r{n}", load_plan({"stages": stage})) for n, stage in zip(keeps, stages, strict=True)]


def test_two_processes_find_what_one_does(llava_folder: Path) -> None:
    loaded = load_model(str(llava_folder), OPTIONS)
    told: list[tuple[int, int]] = []
    found = [
        compare(
            Source(
                loaded.name, OPTIONS, Settings(plans(9, 5, 3), limit=4, batch_size=2, jobs=jobs)
            ),
            loaded,
            progress=lambda done, total, label: told.append((done, total)),
        )
        for jobs in (1, 2)
    ]
    one, two = found
    assert one.failures == two.failures == []
    assert [row.keep for row in two.results] == ["9", "5", "3"], "in the order of the plans"
    assert two.dense.run.answers == one.dense.run.answers
    for alone, shared in zip(one.results, two.results, strict=True):
        assert alone.run.answers == shared.run.answers
        assert alone.tokens == shared.tokens
        assert alone.run.flops == shared.run.flops
        assert shared.total.value > 0
        assert shared.time["encode"] is not None
    assert two.settings["jobs"] == 2
    alone_total, shared_total = told[0][1], told[-1][1]
    assert shared_total > alone_total, "every process runs dense too"
    shared = [done for done, total in told if total == shared_total]
    assert shared == sorted(shared)
    assert shared[-1] < shared_total


def test_what_a_process_meets_reaches_the_user(llava_folder: Path, tmp_path: Path) -> None:
    for file in llava_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    copy = load_model(str(tmp_path), OPTIONS)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    source = Source(copy.name, OPTIONS, Settings(plans(9, 5), limit=2, jobs=2))
    with pytest.raises(CheckpointError) as caught:
        compare(source, copy)
    assert str(tmp_path) in caught.value.where
    assert caught.value.remedy


def part(*labels: str, answers: list[str]) -> Measurement:
    said = dict(enumerate(answers))
    rows = [Measured(Entry(label, load_plan({"schema_version": 1})), said) for label in labels]
    return Measurement(Measured(None, said), Measured(None, said), rows)


def test_parts_are_joined_in_order_and_dense_answers_must_agree() -> None:
    first, second = part("a", "c", answers=["x"]), part("b", answers=["x"])
    whole = joined([first, second], [[0, 2], [1]])
    assert [row.entry.name for row in whole.plans if row.entry] == ["a", "b", "c"]
    assert whole.dense is first.dense
    assert failed_checks(whole, host().strategies) == []
    strange = joined([first, part("b", answers=["y"])], [[0, 2], [1]])
    assert "differ between processes" in failed_checks(strange, host().strategies)[0]
    outer = joined([strange, part("d", answers=["x"])], [[0, 1, 2], [3]])
    assert len(outer.again) == 4
