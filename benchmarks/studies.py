"""A study is killed twice and resumed, and run again on a Ray cluster of two nodes.

    python -m benchmarks.studies --out benchmarks/records/studies.json

The record says what was repeated after each SIGKILL, whether the report states what the records
hold, and whether the cluster gave the same answers. The folders are temporary.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from markupsafe import escape

from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.studies import Record, Store, cells, load_study, run_study
from tokenprune.lab.studies.ray_runner import RayRunner

STUDY = Path("examples/studies/methods.yaml")
JOBS = 2
#: Shares of the cells that are recorded when the run is killed.
KILLS = (0.25, 0.6)
NODES = 2


def copied(study: Path, folder: Path) -> Path:
    """The study file in another folder, so that its records go there."""
    target = folder / study.name
    target.write_text(study.read_text())
    return target


def recorded(folder: Path) -> int:
    """Records that are there."""
    return len(list((folder / "cells").glob("*.json")))


def command(study: Path) -> list[str]:
    """The documented command."""
    return [sys.executable, "-m", "tokenprune", "study", str(study), "--jobs", str(JOBS)]


def killed_at(study: Path, out: Path, wanted: int) -> int:
    """Start the study and kill it with all its processes once so many cells are recorded."""
    child = subprocess.Popen(command(study), start_new_session=True, stdout=subprocess.DEVNULL)
    while recorded(out) < wanted:
        if child.poll() is not None:
            raise SystemExit("the study ended before it could be killed")
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return recorded(out)


def killed_and_resumed(study: Path, out: Path, total: int) -> dict[str, Any]:
    """Two kills, and a run to the end: how many cells each run did."""
    done, runs = 0, []
    for share in KILLS:
        left = killed_at(study, out, round(total * share))
        runs.append({"recorded when killed": left, "recorded by this run": left - done})
        done = left
    ended = subprocess.run(command(study), check=False, capture_output=True, text=True)
    return {
        "kills": runs,
        "cells left for the last run": total - done,
        "exit code": ended.returncode,
        "records": recorded(out),
    }


def reported(out: Path, records: Sequence[Record]) -> dict[str, Any]:
    """Whether the report's table states the accuracies of the records."""
    subprocess.run(
        [sys.executable, "-m", "tokenprune", "report", str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with (out / "results.csv").open(newline="") as handle:
        table = {row["plan"]: row for row in csv.DictReader(handle)}
    page = (out / "report.html").read_text()
    held = [(str(record.identity["name"]), figures(record)) for record in records]
    return {
        "rows of the table": len(table),
        "figures compared": sum(len(mine) for _, mine in held),
        "figures of the table that differ": sum(
            table[name][column] != value for name, mine in held for column, value in mine.items()
        ),
        "rows of the page that differ": sum(
            f"<td>{100 * float(mine['accuracy']):.1f} % " not in row_of(page, name)
            for name, mine in held
        ),
        "bytes of the page": len(page.encode()),
    }


def figures(record: Record) -> dict[str, str]:
    """What the report's table has to say of a record, computed from the record alone."""
    result = record.result
    tokens, flops = result["tokens"]["llm_average"], result["flops"] / result["dense_flops"]
    return {
        "accuracy": f"{accuracy(record):.4f}",
        "tokens": f"{tokens:.1f}",
        "FLOPs / dense": f"{flops:.3f}",
        "time / dense": f"{sum(result['wall']) / sum(result['dense_wall']):.3f}",
    }


def row_of(page: str, name: str) -> str:
    """A plan's row in the page's table of results; empty without one."""
    page = page.replace("<wbr>", "")  # where names may be broken
    found = re.search(f'<th scope="row" class="name">{re.escape(str(escape(name)))}(?: <|<)', page)
    return "" if found is None else page[found.start() : page.find("</tr>", found.start())]


def accuracy(record: Record) -> float:
    """Share of right answers."""
    right = [bool(sample["right"]) for sample in record.result["samples"]]
    return sum(right) / len(right)


@contextmanager
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with one core each on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray, utils = import_module("ray"), import_module("ray.cluster_utils")
    node: dict[str, Any] = {
        "num_cpus": 1,
        "include_dashboard": False,
        "object_store_memory": 80_000_000,
    }
    found: Any = utils.Cluster(initialize_head=True, head_node_args=node)
    try:
        for _ in range(NODES - 1):
            found.add_node(**node)
        found.wait_for_nodes()
        ray.init(address=found.address)
        yield ray
    finally:
        ray.shutdown()
        found.shutdown()


def on_a_cluster(study: Path) -> tuple[list[Record], int]:
    """The study's records from a cluster, and the nodes that were alive."""
    with cluster() as ray:
        alive = sum(bool(node["Alive"]) for node in ray.nodes())
        return run_study(load_study(study), RayRunner()).records, alive


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/studies.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        here, there = Path(name, "here"), Path(name, "there")
        here.mkdir()
        there.mkdir()
        study = copied(options.study, here)
        loaded = load_study(study)
        start = time.perf_counter()
        local = killed_and_resumed(study, loaded.out, len(cells(loaded)))
        records, _ = Store(loaded.out).records()
        elapsed = time.perf_counter() - start
        report = reported(loaded.out, records)
        remote, nodes = on_a_cluster(copied(options.study, there))
        mine, theirs = ({r.key: r for r in found} for found in (records, remote))
        same = [
            mine[key].result["samples"] == theirs[key].result["samples"]
            for key in mine.keys() & theirs.keys()
        ]
        record = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": describe_environment(),
            "study": options.study.name,
            "cells": len(cells(loaded)),
            "local": {**local, "jobs": JOBS, "seconds": round(elapsed, 1)},
            "report": report,
            "cluster": {"nodes": nodes, "cells": len(remote), "with the same answers": sum(same)},
            "accuracy": {str(r.identity["name"]): accuracy(r) for r in records},
        }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({k: record[k] for k in ("cells", "local", "report", "cluster")}, indent=1))


if __name__ == "__main__":
    main()
