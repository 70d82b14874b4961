"""Ctrl-C, full disks, folders without locks, and grids that are larger than was meant."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import filelock
import pytest
from typer.testing import CliRunner

from tests.studies.test_studies import change
from tokenprune.cli import study as command
from tokenprune.cli.app import app
from tokenprune.errors import DataError, PlanError
from tokenprune.lab.measure.files import writing_failed
from tokenprune.lab.studies import cells, load_study, run_study, runners
from tokenprune.lab.studies.load import MOST, cell_count
from tokenprune.lab.studies.store import Store

run = CliRunner().invoke


def test_ctrl_c_says_how_far_it_came_and_how_to_go_on(study: Path) -> None:
    """The whole group gets it, as in a terminal; no process shows a traceback."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "tokenprune", "study", str(study), "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    folder = study.parent / "records" / "cells"
    end = time.monotonic() + 120
    while time.monotonic() < end and not [*folder.glob("*.json")] and driver.poll() is None:
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGINT)
    said, _ = driver.communicate(timeout=120)
    assert "Traceback" not in said
    if driver.returncode != 0:  # it may have come to its end meanwhile
        assert driver.returncode == 130
        assert "interrupted: " in said
        assert re.search("cells of this run (is|are) recorded in", said)
        assert "The same command goes on" in said
    assert not run_study(load_study(study)).failed


@pytest.mark.usefixtures("replayed")
def test_ctrl_c_in_one_process_leaves_what_is_recorded(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(execute(*given))
        return done[-1]

    execute, done = runners.execute, []
    with monkeypatch.context() as patched:
        patched.setattr(runners, "execute", interrupted)
        result = run(app, ["study", str(study)])
    assert result.exit_code == 130
    assert "1 of the 5 cells of this run is recorded in" in " ".join(result.output.split())
    assert len(run_study(load_study(study)).ran) == 4


def test_before_anything_is_recorded_it_says_so(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenprune.lab.studies.run_study", interrupted)
    result = run(app, ["study", str(study)])
    assert result.exit_code == 130
    assert "nothing new is recorded" in result.output


@pytest.mark.parametrize(
    ("raised", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "Make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Make room"),
        (OSError(errno.EROFS, "Read-only file system"), "can be written to"),
        (OSError(errno.ENOLCK, "No locks available"), "that has locks"),
        (NotImplementedError("FileSystem does not appear to support flock"), "that has locks"),
    ],
)
def test_no_lock_is_one_sentence_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, remedy: str
) -> None:
    def acquire(*_: Any, **__: Any) -> NoReturn:
        raise raised

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    store = Store(tmp_path)
    with pytest.raises(DataError, match="the lock can't be written") as caught, store.claimed("k"):
        pass
    assert remedy in caught.value.remedy
    assert remedy in writing_failed(tmp_path, raised).remedy


def test_a_large_grid_says_its_number_of_cells(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(study, plans=[{"plan": {"stages": []}, "grid": {"seed": [*range(40)]}}])
    loaded = load_study(study)
    assert cell_count(loaded) == len(cells(loaded)) == 41
    monkeypatch.setattr(command, "MANY", 40)
    monkeypatch.setattr("tokenprune.lab.studies.run_study", lambda *_, **__: pytest.skip())
    said: list[str] = []
    monkeypatch.setattr(command.Console, "print", lambda _, text: said.append(str(text)))
    command._say_how_many(loaded)
    assert said == ["41 cells: 1 model x 1 task x plans"]


def test_too_large_a_grid_is_refused_before_it_is_made(study: Path) -> None:
    axes = {f"stages.0.params.{name}": [*range(40)] for name in "abcdef"}
    change(study, plans=[{"plan": {"stages": []}, "grid": axes}])
    loaded = load_study(study)
    assert cell_count(loaded) == 1 + 40**6
    with pytest.raises(PlanError, match=rf"4,096,000,001 cells, and at most {MOST:,}"):
        cells(loaded)
