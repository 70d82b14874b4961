"""Processes that prepare all at once and measure one at a time: what they say, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workers import READY, ROOT, Crew, Job

ENVIRONMENT = {"TOLD": "by its parent"}
HEAD = "import os, sys, time\nfrom benchmarks.workers import DONE, READY, Orders\n"
WORKING = """
print("a library greets")
orders = Orders()
(seconds,) = orders.wait_for("prepare")
print("a library warns")
if float(seconds) <= 0:
    orders.put("left_out", "a graph")
orders.reach(READY)
orders.wait_for("measure")
orders.put("rows", {"began": time.monotonic()})
time.sleep(0.1)
orders.put("rows", {"ended": time.monotonic(), "told": os.environ["TOLD"]})
orders.reach(DONE)
orders.rest()
"""
CRASHING = """
orders = Orders()
orders.wait_for("prepare")
raise MemoryError("no memory is left\\n\\n")
"""
KILLED = """
orders = Orders()
orders.wait_for("prepare")
orders.reach(READY)
orders.wait_for("measure")
orders.put("rows", {"half": 1})
os.kill(os.getpid(), 9)
"""
HANGING = """
orders = Orders()
orders.wait_for("prepare")
if sys.argv[1:]:
    orders.reach(READY)
    orders.wait_for("measure")
time.sleep(600)
"""


def job(name: str, code: str, *arguments: str) -> Job:
    command = (sys.executable, "-c", HEAD + code, *arguments)
    return Job(name, (f"{name}, compiled", f"{name}, graphs"), command)


class Found(dict[str, list[Any]]):
    def put(self, section: str, row: Any) -> None:
        self.setdefault(section, []).append(row)


def run(jobs: list[Job], *, measuring: float = 60) -> Found:
    found = Found()
    with Crew(jobs, found.put, ENVIRONMENT) as crew:
        crew.prepare(60)
        crew.await_ready(60)
        crew.measure(measuring)
        processes = [worker.process for worker in crew._workers]
    assert all(process.returncode is not None for process in processes), "none is left running"
    return found


def test_workers_measure_one_at_a_time() -> None:
    found = run([job("one", WORKING), job("two", WORKING)])
    assert "failed" not in found
    assert "left_out" not in found
    began, ended, later, last = found["rows"]
    assert began["began"] < ended["ended"] <= later["began"] < last["ended"]
    assert ended["told"] == "by its parent"
    reached = [row["phase"] for row in found["phases"]]
    assert sorted(reached[:2]) == ["one: ready", "two: ready"]
    assert reached[2:] == ["one: done", "two: done"]


def test_a_worker_that_fails_is_named_and_stops_no_other() -> None:
    missing = Job("missing", ("missing, graphs",), (sys.executable, "-m", "benchmarks.no_such"))
    jobs = [job("crashing", CRASHING), job("killed", KILLED), missing, job("one", WORKING)]
    found = run(jobs)
    failed = {row["what"]: row["error"] for row in found["failed"]}
    assert failed["crashing"] == "exit code 1: MemoryError: no memory is left"
    assert failed["killed"] == "exit code -9: it said nothing"
    assert "No module named" in failed["missing"]
    assert set(failed) == {"crashing", "killed", "missing"}
    assert found["rows"][0] == {"half": 1}, "what it had measured stays"
    assert [list(row) for row in found["rows"][1:]] == [["began"], ["ended", "told"]]
    assert "left_out" not in found


def test_a_worker_that_is_not_ready_in_time_is_left_out() -> None:
    found = Found()
    with Crew([job("hanging", HANGING), job("one", WORKING)], found.put, ENVIRONMENT) as crew:
        crew.prepare(0)
        crew._await(crew._workers[1:], READY, time.monotonic() + 60)
        crew.await_ready(0)
        crew.measure(60)
    assert found["left_out"] == ["a graph", "hanging, compiled", "hanging, graphs"]
    assert len(found["rows"]) == 2
    assert "failed" not in found


def test_a_worker_that_does_not_come_to_an_end_is_named() -> None:
    found = run([job("hanging", HANGING, "while measuring")], measuring=0)
    error = "it was still measuring after 0 s"
    assert found["failed"] == [{"what": "hanging", "error": error}]


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    worker = f"open({str(told)!r}, 'w').write(str(os.getpid()))\norders = Orders()\norders.rest()"
    parent = (
        "import sys, time\nfrom benchmarks.workers import Crew, Job\n"
        f"job = Job('one', (), (sys.executable, '-c', {HEAD + worker!r}))\n"
        "with Crew([job], print):\n    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT)
    try:
        _until(lambda: told.exists() and bool(told.read_text()))
        assert _lives(int(told.read_text()))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    _until(lambda: not _lives(int(told.read_text())))


def _until(holds: Any) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
