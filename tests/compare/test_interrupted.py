"""A comparison that was interrupted goes on behind its last whole batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.test_commands import run
from tokenprune.interface.loading import LoadedMllm, LoadOptions
from tokenprune.lab.compare import Settings, Source, compare
from tokenprune.lab.compare import kept as kept_module
from tokenprune.lab.measure import run as running
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.environment import environment_facts
from tokenprune.lab.measure.journal import Journal, forget
from tokenprune.lab.measure.measurement import Measured, Measurement
from tokenprune.lab.measure.run import measure
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.models import load_model
from tokenprune.plan import Plan, load_plan

#: Samples in batches of two; one of the first batch can't be read, and no one of the third.
SAMPLES, LOST = 16, (0, 4, 5)


def planned(strategy: str, **more: Any) -> Plan:
    return load_plan({"stages": [{"at": "pre_llm", "strategy": strategy, **more}]})


@pytest.fixture(scope="module")
def task(llava_folder: Path) -> VqaTask:
    loaded = load_model(str(llava_folder), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    asked = Source(str(llava_folder), LoadOptions(), Settings(limit=SAMPLES)).task(loaded).questions
    read = [
        replace(one, image=Path("gone.png")) if number in LOST else one
        for number, one in enumerate(asked)
    ]
    return VqaTask(loaded, read, 2, new_tokens=1)


ENTRIES = [
    Entry("random", planned("random", keep=4)),
    Entry("own", planned("cls_inflection")),
    Entry("cannot", planned("uniform", keep=10_000), optional=True),
]


def interrupted(task: VqaTask, path: Path, after: int) -> list[int]:
    """Measure until so many runs were told; what was told then."""
    told: list[int] = []

    def tell(done: int, _: int, what: str) -> None:
        told.append(done)
        if len(told) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(task, ENTRIES, progress=tell, journal=Journal(path))
    return told


def known(found: Measurement) -> list[dict[str, Any]]:
    """All that doesn't depend on the clock, row by row."""

    def row(one: Measured) -> dict[str, Any]:
        names = ("answers", "tokens", "flops", "lengths", "failure", "tiles", "counted", "images")
        facts = {name: getattr(one, name) for name in names}
        return {**facts, "batches": len(one.wall), "stages": {*one.seconds}}

    return [row(one) for one in (found.dense, found.idle, *found.plans)]


def test_what_goes_on_is_what_was_never_interrupted(task: VqaTask, tmp_path: Path) -> None:
    path = tmp_path / "kept" / "a.jsonl"
    once: list[tuple[int, int]] = []
    whole = measure(task, ENTRIES, progress=lambda *now: once.append(now[:2]))
    assert sorted(whole.lost) == [*LOST]
    first = interrupted(task, path, 12)
    second = interrupted(task, path, 12)
    assert first[0] == 0 < second[0]
    done = path.read_bytes().count(b"\n")
    assert 1 <= done < 7
    told: list[tuple[int, int]] = []
    journal = Journal(path)
    found = measure(task, ENTRIES, progress=lambda *now: told.append(now[:2]), journal=journal)
    assert second[0] < told[0][0]
    assert told == once[-len(told) :]  # the bar goes on where it stood
    assert journal.batches == 7
    assert known(found) == known(whole)
    assert (found.lost, [*found.largest]) == (whole.lost, [*whole.largest])
    # all of it is there now
    again = measure(task, ENTRIES, journal=Journal(path))
    assert [row.wall for row in again.plans] == [row.wall for row in found.plans]
    forget([path])
    assert not path.parent.exists()


def test_lines_that_were_cut_off_or_edited_are_measured_anew(task: VqaTask, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    whole = measure(task, ENTRIES, journal=Journal(path))
    lines = path.read_bytes().splitlines(keepends=True)
    for left in (
        b"".join(lines[:3]) + lines[3][:-9],
        b"".join(lines[:3]) + lines[3].replace(b'"wall"', b'"wal"'),
        b"".join([*lines[:3], *lines[4:]]),
        b"".join(lines[1:]),
    ):
        path.write_bytes(left)
        journal = Journal(path)
        assert known(measure(task, ENTRIES, journal=journal)) == known(whole)
        assert path.read_bytes().count(b"\n") == journal.batches == 7


def test_a_file_that_another_run_writes_is_left_alone(task: VqaTask, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path):
        measure(task, ENTRIES[:1], journal=Journal(path))
        forget([path])
        assert path.with_suffix(".lock").exists()
    assert not path.exists()


def test_other_plans_samples_and_settings_are_another_comparison(
    llava_folder: Path, tmp_path: Path
) -> None:
    loaded = load_model(str(llava_folder), LoadOptions())
    usual, said = {"limit": 2, "batch_size": 1, "new_tokens": 1}, list[str]()
    for number, change in enumerate(({}, {}, {"limit": 3}, {"seed": 1}, {"new_tokens": 2})):
        settings = Settings([("mine", planned("random", keep=4))], **{**usual, **change})
        compare(
            Source(loaded.name, LoadOptions(), settings), loaded, say=said.append, keep=tmp_path
        )
        assert len([*tmp_path.glob("*.jsonl")]) == max(1, number)
    assert said[0] == f"taken over: 2 batches that an earlier run kept in {tmp_path}"
    another = f"what an earlier run kept in {tmp_path} isn't taken over; other there: "
    # the latest is told of, where there are several
    assert [line.removeprefix(another).replace(" ", "") for line in said[1:]] == [
        "data", "data,seed(0,now1)", "newtokens(1,now2),seed(1,now0)"
    ]  # fmt: skip
    other = Settings([("mine", planned("random", keep=5))], **usual)
    compare(Source(loaded.name, LoadOptions(), other), loaded, keep=tmp_path)
    assert len([*tmp_path.glob("*.jsonl")]) == 5


def test_other_threads_and_packages_are_told_and_measured_anew(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times of two machines stood in one record in silence."""
    loaded = load_model(str(llava_folder), LoadOptions())
    settings = Settings([("mine", planned("random", keep=4))], limit=2, batch_size=1, new_tokens=1)
    source, said = Source(loaded.name, LoadOptions(), settings), list[str]()

    def resumed() -> dict[str, int]:
        return compare(source, loaded, say=said.append, keep=tmp_path).resumed

    assert resumed() == {}
    assert resumed() == {"batches": 2, "of": 2}
    (kept,) = tmp_path.glob("*.jsonl")
    lines = kept.read_bytes()
    with Journal(kept):
        assert resumed() == {}
    threads = torch.get_num_threads()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "get_num_threads", lambda: threads + 3)
        assert resumed() == {}
    facts = environment_facts()
    newer = {**facts, "packages": {**facts["packages"], "torch": "99.0"}}
    monkeypatch.setattr(kept_module, "environment_facts", lambda: newer)
    forget([*tmp_path.glob("*.jsonl")])
    kept.parent.mkdir()
    kept.write_bytes(lines)
    assert resumed() == {}
    another = f"what an earlier run kept in {tmp_path} isn't taken over; other there: "
    assert said[1:] == [
        "another run measures the same at the moment, so nothing of this one is kept",
        f"{another}threads ({threads}, now {threads + 3})",
        f"{another}packages.torch ({facts['packages']['torch']}, now 99.0)",
    ]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    for keep in (4, 5):
        (tmp_path / f"{keep}.yaml").write_text(
            f"stages: [{{at: pre_llm, strategy: random, keep: {keep}}}]"
        )
    out = tmp_path / "found.json"
    args = ("compare", "--model", llava_folder, "--plans", tmp_path / "4.yaml", tmp_path / "5.yaml",
            "--limit", 6, "--batch-size", 2, "--jobs", jobs, "--out", out)  # fmt: skip
    whole, batches = running._run_batch, []

    def stopped(*given: Any) -> None:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(given)
        whole(*given)

    with monkeypatch.context() as patched:
        if jobs == 1:
            patched.setattr(running, "_run_batch", stopped)
            code, said, err = run(*args)
            assert code == 130
            assert f"goes on behind the last whole batch; those before it are in {out}.part" in (
                " ".join((said + err).split())
            )
            (kept,) = Path(f"{out}.part").glob("*.jsonl")
            assert kept.read_bytes().count(b"\n") == 2
            other = kept.with_name("other.jsonl")
            other.write_text("of another comparison, which may go on\n")
    code, said, err = run(*args)
    assert code == 0, err
    assert ("taken over: 2 batches that an earlier run kept in" in err) is (jobs == 1)
    record = json.loads(out.read_text())
    assert record["resumed"] == ({"batches": 2, "of": 3} if jobs == 1 else {})
    line = "Resumed: 2 of 3 batches were measured by earlier runs"
    assert (line in " ".join(said.split())) is (jobs == 1)
    assert record["task"]["samples"] == 6
    left = [path.name for path in Path(f"{out}.part").glob("*")]
    assert left == (["other.jsonl"] if jobs == 1 else [])
    assert Path(f"{out}.part").exists() is (f"interrupted stay in {out}.part" in err) is bool(left)
