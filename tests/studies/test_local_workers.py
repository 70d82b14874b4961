"""The processes of the local runner: what dies with one, and which GPU each of them sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from tokenprune.lab.studies import Cell, LocalRunner, Study, cells, load_study, runners
from tokenprune.lab.studies.model import ModelEntry
from tokenprune.lab.studies.worker import VISIBLE, Job, Result, Worker, visible_devices

VICTIM = 1


def tries(study: Study, cell: Cell) -> Path:
    """A file that grows by a byte each time the cell is tried."""
    return study.out / f"tries-{cell.number}"


def count_and_die(study: Study, cell: Cell, attempts: int) -> Result:
    """As the kernel does it to a process that takes too much memory."""
    with tries(study, cell).open("a") as handle:
        handle.write("x")
    if cell.number == VICTIM and tries(study, cell).stat().st_size <= attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done", {"device": os.environ.get(VISIBLE), "pid": os.getpid()}


def always_dies(cell: Cell, study: Study) -> Result:
    return count_and_die(study, cell, attempts=99)


def lives(cell: Cell, study: Study) -> Result:
    return count_and_die(study, cell, attempts=0)


def dies_once(cell: Cell, study: Study) -> Result:
    return count_and_die(study, cell, attempts=1)


@pytest.mark.parametrize(
    ("job", "status", "times"), [(always_dies, "failed", 2), (dies_once, "done", 2)]
)
def test_a_process_that_is_killed_takes_no_other_cell_with_it(
    job: Job, status: str, times: int, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_study(study)
    loaded.out.mkdir()
    monkeypatch.setattr(runners, "ATTEMPTS", 2)
    monkeypatch.setattr(runners, "Worker", partial(Worker, job=job))
    found = {cell.number: (status, result) for cell, status, result in run(loaded)}
    assert {number: state for number, (state, _) in found.items()} == {
        cell.number: status if cell.number == VICTIM else "done" for cell in cells(loaded)
    }
    for cell in cells(loaded):
        assert tries(loaded, cell).stat().st_size == (times if cell.number == VICTIM else 1)
    if status == "failed":
        assert found[VICTIM][1]["reason"] == "the worker process died"


def run(study: Study) -> list[tuple[Cell, str, dict[str, object]]]:
    return list(LocalRunner(jobs=2).run(cells(study), study))


def test_each_process_sees_one_gpu(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_study(study)
    loaded.out.mkdir()
    monkeypatch.setattr(runners, "Worker", partial(Worker, job=lives))
    monkeypatch.setattr(runners, "visible_devices", lambda: ["3", "GPU-5f"])
    results = [result for _, _, result in LocalRunner().run(cells(loaded), loaded)]
    assert {result["device"] for result in results} == {"3", "GPU-5f"}
    assert os.getpid() not in {result["pid"] for result in results}


def test_a_study_that_numbers_its_gpus_sees_them_all(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_study(study)
    loaded.out.mkdir()
    monkeypatch.setattr(runners, "Worker", partial(Worker, job=lives))
    monkeypatch.setattr(runners, "visible_devices", lambda: ["3", "4"])
    monkeypatch.delenv(VISIBLE, raising=False)
    numbered = ModelEntry(name="any", device="cuda:1")
    placed = [Cell(n, numbered, c.task, c.name, c.plan) for n, c in enumerate(cells(loaded))]
    results = [result for _, _, result in LocalRunner(jobs=2).run(placed, loaded)]
    assert {result["device"] for result in results} == {None}


@pytest.mark.parametrize(
    ("named", "count", "found"),
    [
        (None, 2, ["0", "1"]),
        ("2, 5", 2, ["2", "5"]),
        ("", 0, []),
        ("7,-1,3", 1, ["7"]),
        (None, 0, []),
    ],
)
def test_the_gpus_are_those_that_this_process_sees(
    named: str | None, count: int, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv(VISIBLE, raising=False)
    if named is not None:
        monkeypatch.setenv(VISIBLE, named)
    assert visible_devices() == found


_DRIVER = """
import sys
from functools import partial
from pathlib import Path
from tests.studies.test_local_workers import waits
from tokenprune.lab.studies import LocalRunner, cells, load_study, runners
from tokenprune.lab.studies.worker import Worker

if __name__ == "__main__":
    study = load_study(Path(sys.argv[1]))
    runners.Worker = partial(Worker, job=waits)
    list(LocalRunner(jobs=2).run(cells(study), study))
"""


def waits(cell: Cell, study: Study) -> Result:
    (study.out / f"pid-{os.getpid()}").touch()
    time.sleep(600)
    return "done", {}


def test_processes_end_with_a_driver_that_is_killed(study: Path) -> None:
    out = load_study(study).out
    out.mkdir()
    script = study.parent / "driver.py"
    script.write_text(_DRIVER)
    driver = subprocess.Popen([sys.executable, str(script), str(study)], env=importable())
    try:
        eventually(lambda: len(list(out.glob("pid-*"))) == 2 or driver.poll() is not None)
    finally:
        driver.kill()
        driver.wait()
    pids = [int(path.name.removeprefix("pid-")) for path in out.glob("pid-*")]
    assert len(pids) == 2
    eventually(lambda: not any(map(alive, pids)))


def importable() -> dict[str, str]:
    """The environment with this repository's tests on the path."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def eventually(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)
