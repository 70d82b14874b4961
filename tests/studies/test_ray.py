"""A study begun on this machine goes on on a Ray cluster, one of whose two nodes dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from tests.studies.test_studies import change
from tokenprune.errors import DataError
from tokenprune.lab.studies import LocalRunner, Record, load_study, ray_runner, run_study
from tokenprune.lab.studies.packing import Packed
from tokenprune.lab.studies.ray_runner import RayRunner

if util.find_spec("ray") is None:
    pytest.skip("Ray isn't installed (extra 'ray')", allow_module_level=True)

PLANS = [
    {
        "name": "picked",
        "plan": {"stages": [{"at": "pre_llm", "strategy": "random", "keep": 8}]},
        "grid": {"stages.0.strategy": ["random", "uniform"], "stages.0.keep": [8, 6, 4, 2]},
    }
]
CELLS, BEFORE = 9, 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one core each; the driver is on neither."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        # workers start where the nodes do, so nothing may depend on the driver's folder
        patch.chdir(tmp_path_factory.mktemp("nodes"))
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
        found = Cluster(initialize_head=True, head_node_args=node)
        found.add_node(**{**node, "resources": {"victim": 1}})
        found.wait_for_nodes()
    yield found
    found.shutdown()


def answers(records: list[Record]) -> list[object]:
    assert {record.status for record in records} == {"done"}
    return [(record.key, record.result["samples"], record.result["tokens"]) for record in records]


def stalling(folder: Path, victim: str) -> Any:
    """A worker's function that never returns on one node; on the other it waits for that one."""

    def run(packed: Packed, *known: dict[str, str]) -> Any:
        import ray

        here = ray.get_runtime_context().get_node_id()
        (folder / f"{packed['number']} {here}").touch()
        if here == victim:
            time.sleep(600)
        deadline = time.monotonic() + 60
        while not busy(folder, victim) and time.monotonic() < deadline:
            time.sleep(0.05)
        from tokenprune.lab.studies.ray_runner import work

        return work(packed, *known)

    def busy(folder: Path, node: str) -> bool:
        return any(name.name.endswith(node) for name in folder.iterdir())

    return run


class Enough(Exception):
    """The user's patience ends."""


def enough(done: int, *_: object) -> None:
    if done == BEFORE:
        raise Enough


def test_a_killed_node_loses_nothing(
    cluster: Any, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(study, plans=PLANS)
    loaded = load_study(study)
    runner = RayRunner(address=cluster.address)
    victim = next(node for node in cluster.list_all_nodes() if not node.head)
    seen = tmp_path / "seen"
    seen.mkdir()
    with pytest.raises(Enough):
        run_study(loaded, LocalRunner(), enough)
    monkeypatch.setattr(ray_runner, "work", stalling(seen, victim.node_id))
    killer = threading.Thread(target=kill_once_busy, args=(cluster, victim, seen))
    killer.start()
    done = run_study(loaded, runner)
    killer.join()
    assert (len(done.ran), done.failed, done.damaged) == (CELLS - BEFORE, {}, {})
    where = [name.name.split() for name in seen.iterdir()]
    lost = {number for number, node in where if node == victim.node_id}
    again = {number for number, node in where if node != victim.node_id}
    assert len(lost) == 1
    assert lost <= again, "the lost cell ran on the other node"
    alone = run_study(loaded.model_copy(update={"out": tmp_path / "alone"}))
    assert answers(done.records) == answers(alone.records)


def kill_once_busy(cluster: Any, victim: Any, seen: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(name.name.endswith(victim.node_id) for name in seen.iterdir()):
            break
        time.sleep(0.05)
    cluster.remove_node(victim, allow_graceful=False)


def test_a_cluster_that_is_not_there(study: Path) -> None:
    with pytest.raises(DataError, match="can't be reached"):
        run_study(load_study(study), RayRunner(address="127.0.0.1:1"))
