"""Studies: what is run, what is recorded, and what a second run repeats."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tokenprune.errors import DataError, PlanError
from tokenprune.studies import LocalRunner, Store, cells, load_study, run_study
from tokenprune.studies.run import identified
from tokenprune.studies.store import digest
from tokenprune.studies.tasks import read_jsonl

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


def test_a_second_run_repeats_nothing_and_says_the_same(study: Path) -> None:
    loaded = load_study(study)
    first, second = run_study(loaded), run_study(loaded)
    assert len(first.ran) == len(NAMES) == len(first.records)
    assert (second.ran, second.failed, second.elsewhere) == ([], {}, [])
    assert [r.key for r in second.records] == [r.key for r in first.records]
    sample = first.records[1].result["samples"][0]
    assert set(sample) == {"group", "kind", "answer", "right"}
    assert first.records[1].result["tokens"]["llm"] == 8


def test_an_edited_record_is_noticed_and_run_again(study: Path) -> None:
    loaded = load_study(study)
    run_study(loaded)
    path = sorted((loaded.out / "cells").glob("*.json"))[0]
    data = json.loads(path.read_text())
    data["result"]["flops"] = 1.0
    path.write_text(json.dumps(data))
    again = run_study(loaded)
    assert list(again.damaged) == [path.stem]
    assert len(again.ran) == 1
    assert run_study(loaded).ran == []


@pytest.mark.parametrize("text", ["", "{", '{"identity": {}}'])
def test_a_record_cut_off_is_noticed(study: Path, text: str) -> None:
    loaded = load_study(study)
    run_study(loaded)
    path = sorted((loaded.out / "cells").glob("*.json"))[0]
    path.write_text(text)
    assert list(run_study(loaded).damaged) == [path.stem]


def test_other_data_is_another_cell(study: Path) -> None:
    loaded = load_study(study)
    before = {digest(about) for _, about in identified(loaded)}
    asked = study.parent / "asked.jsonl"
    asked.write_text(asked.read_text().replace('"yes"', '"no"', 1))
    assert before.isdisjoint(digest(about) for _, about in identified(loaded))


def test_two_runs_share_a_folder(study: Path) -> None:
    loaded = load_study(study)
    _, about = identified(loaded)[0]
    with Store(loaded.out).claimed(digest(about)) as mine:
        assert mine
        other = subprocess.run(
            [sys.executable, "-c", _RUN, str(study)], capture_output=True, text=True, check=True
        )
    ran, elsewhere = other.stdout.splitlines()[-1].split()
    assert (int(ran), int(elsewhere)) == (len(NAMES) - 1, 1)


def test_a_failing_cell_is_recorded_and_the_others_go_on(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenprune_strategies.baselines import Uniform

    def broken(*_: object) -> None:
        raise ValueError("out of luck")

    loaded = load_study(study)
    with monkeypatch.context() as patched:
        patched.setattr(Uniform, "reduce", broken)
        done = run_study(loaded)
    assert len(done.failed) == 2
    assert all("out of luck" in reason for reason in done.failed.values())
    again = run_study(loaded)
    assert (len(again.ran), again.failed) == (2, {})


def test_processes_give_the_same_answers(study: Path, tmp_path: Path) -> None:
    loaded = load_study(study)
    alone = run_study(loaded)
    elsewhere = loaded.model_copy(update={"out": tmp_path / "other"})
    apart = run_study(elsewhere, LocalRunner(jobs=2))
    assert [r.result["samples"] for r in apart.records] == [
        r.result["samples"] for r in alone.records
    ]


_RUN = """
import sys
from pathlib import Path
from tokenprune.studies import load_study, run_study
done = run_study(load_study(Path(sys.argv[1])))
print(len(done.ran), len(done.elsewhere))
"""


def test_a_killed_run_is_taken_up_where_it_was(study: Path) -> None:
    folder = study.parent / "records" / "cells"
    child = subprocess.Popen([sys.executable, "-c", _RUN, str(study)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.json")) and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = len(list(folder.glob("*.json")))
    assert kept >= 1
    done = run_study(load_study(study))
    assert (len(done.ran), len(done.records)) == (len(NAMES) - kept, len(NAMES))
    assert done.damaged == {}


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
