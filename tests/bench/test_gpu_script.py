"""The benchmarks of encoders, of growth and of a GPU run, on tiny models and any device."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import (
    decoding,
    encoders,
    first_token,
    gpu,
    gpu_compiled,
    growth,
    launches,
    timing,
)
from benchmarks.growing import families
from benchmarks.growth_ops import NATURES
from benchmarks.ops import Site
from benchmarks.towers import towers
from benchmarks.workers import Job, Orders
from tokenprune.ops import launching

pytest.importorskip("timm")
pytest.importorskip("transformers")


def test_the_gpu_script_runs_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    record = gpu.main(["--dry", "--seconds", "3600", "--out", str(out)])
    assert json.loads(out.read_text()) == record
    assert record["dry"]
    assert record["left_out"] == record["failed"] == []
    assert {row["op"] for row in record["operations"]} >= {"match_pairs", "merge_step"}
    assert {row["op"] for row in record["kernels"]} >= {"bipartite_match", "merge_compact"}
    found = {(row["tower"], row["batch"], row["mode"], row["strategy"]) for row in record["towers"]}
    names = [tower.name for tower in towers(tiny=True)]
    assert {(name, 2, "eager", "evoprune") for name in names} <= found
    assert {
        (tower.name, 1, mode, strategy)
        for tower in gpu_compiled.one_of_a_kind()
        for mode in gpu_compiled.MODES
        for strategy in gpu_compiled.compiled(dry=True)
    } <= found
    replayed = {row[0] for row in found if row[2:] == ("graphs", "evoprune, recorded")}
    assert replayed == {one.name for one in gpu_compiled.one_of_a_kind() if not one.packed} != set()
    assert all(row["seconds"] > 0 for row in record["towers"])
    timed = [row for row in record["first_token"] if "refused" not in row]
    answered = {(row["model"], row["images"], row["strategy"]) for row in timed}
    assert len(answered) == len(timed), "each is measured once"
    every = ["dense", *first_token.STAGES]
    towered = [*first_token.COMPILED, first_token.RECORDED]
    expected = {"llava-7b": [*every, *towered], "qwen2.5-vl-7b": every}
    assert answered == {
        (family, images, name)
        for family, strategies in expected.items()
        for images in (1, 2)
        for name in strategies
    }
    graphs = {row["graphs"] for row in timed if row["strategy"] in first_token.COMPILED}
    assert graphs == {2}, "one for each number of images"
    phases = [row["phase"] for row in record["phases"]]
    assert "clip-tiny, batch 1, torch.compile: ready" in phases
    assert "llava-7b, first token: done" in phases


def test_the_fastest_right_sizes_of_a_kernel_are_found_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[launching.Sizes] = [{"BLOCK_M": 8}, {"BLOCK_M": 4}, {"BLOCK_M": 2}]
    trial = launches.Trial("best_last", "best_last", Site("tiny", 9, 1, 4), (1, 2), sizes)
    monkeypatch.setattr(launching, "TABLE", tmp_path / "launches.json")
    launching.TABLE.write_text(json.dumps({"best_last": {"BLOCK_M": 32}, "gram": {"BLOCK": 16}}))
    launching._table.cache_clear()
    seconds = {16: 3.0, 8: 1.0, 4: 2.0}

    def clock(call: Any) -> float:
        return seconds[launching.launch("best_last", {"BLOCK_M": 16})["BLOCK_M"]]

    cpu = torch.device("cpu")
    rows = list(launches.measure(trial, cpu, torch.float32, clock))
    assert [row["sizes"] for row in rows] == [{}, *sizes]
    assert [row["seconds"] for row in rows] == [pytest.approx(3), 1, pytest.approx(2), None]
    assert rows[-1]["error"] == "KeyError: 2"
    launching.fill(launches.best(rows))
    launching._table.cache_clear()
    assert launching.launch("best_last", {"BLOCK_M": 16, "n": 1}) == {"BLOCK_M": 8, "n": 1}
    assert launching.launch("gram", {"BLOCK": 64}) == {"BLOCK": 16}
    assert launching.launch("other", {"BLOCK": 64}) == {"BLOCK": 64}
    seconds[16] = 1.02  # its own are hardly slower
    launching.fill(launches.best(list(launches.measure(trial, cpu, torch.float32, clock))))
    launching._table.cache_clear()
    assert launching.launch("best_last", {"BLOCK_M": 16}) == {"BLOCK_M": 16}
    launching._table.cache_clear()


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    record = gpu.main(["--dry", "--seconds", "0", "--out", str(tmp_path / "gpu.json")])
    assert record["towers"] == []
    assert "vit-tiny, batch 1, eager" in record["left_out"]
    assert "llava-7b, time to first token" in record["left_out"]
    assert {f"clip-tiny, batch 1, {mode}" for mode in gpu_compiled.MODES} <= {*record["left_out"]}
    assert {f"llava-7b, time to first token, {name}" for name in first_token.COMPILED} <= {
        *record["left_out"]
    }
    assert record["failed"] == []


def test_what_there_is_no_time_to_compile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is measured; so is a family whose worker failed."""
    start = gpu_compiled.jobs

    def some(*, dry: bool, rounds: int) -> list[Job]:
        clip, llava = (
            next(job for job in start(dry=dry, rounds=rounds) if job.name.startswith(name))
            for name in ("clip-tiny", "llava-7b")
        )
        return [clip, replace(llava, command=(sys.executable, "-c", "raise MemoryError('full')"))]

    monkeypatch.setattr(gpu_compiled, "jobs", some)
    monkeypatch.setattr(gpu, "towers", lambda *, tiny: towers(tiny=tiny)[1:2])
    out = tmp_path / "gpu.json"
    record = gpu.main(["--dry", "--compiling", "0", "--seconds", "3600", "--out", str(out)])
    assert record["left_out"] == ["clip-tiny, batch 1, graphs", "clip-tiny, batch 1, compiled"]
    error = "exit code 1: MemoryError: full"
    assert record["failed"] == [{"what": "llava-7b, first token", "error": error}]
    assert {row["mode"] for row in record["towers"]} == {"eager"}
    assert {row["model"] for row in record["first_token"]} == {*first_token.FAMILIES}


class Told(Orders):
    """Orders of a parent that is somewhere else: what it is told is kept."""

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {"failed": [], "left_out": [], "towers": []}

    def put(self, section: str, row: Any) -> None:
        self.found[section].append(row)


def test_a_strategy_that_cannot_be_compiled_is_named_and_the_others_are_measured() -> None:
    def refusing(input: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no code for this graph")

    told, given = Told(), {"input": torch.ones(2)}
    run = gpu_compiled.Working(torch.device("cpu"), True, time.monotonic() + 600, 2, told)
    cell = gpu_compiled.Cell("t, batch 1, graphs", {"tower": "t", "batch": 1, "mode": "graphs"})
    with torch.inference_mode():
        models = {"dense": torch.nn.Linear(2, 2), "tome": refusing}
        cell.prepare(run, models, given)
        cell.measure(run)
        run.until = time.monotonic()
        cell.prepare(run, models, given)
    (row,) = told.found["towers"]
    assert (row["strategy"], row["graphs"], row["gpu_seconds"]) == ("dense", 1, None)
    (failed,) = told.found["failed"]
    assert failed["what"] == "t, batch 1, graphs, tome"
    assert "no code for this graph" in failed["error"]
    assert told.found["left_out"] == ["t, batch 1, graphs"]


def test_the_time_of_a_gpu_alone_is_none_where_a_call_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU that is played: `_sleep` fills its queue, a call that waits for it empties it."""
    busy, clock = [False], [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock[0]

        def query(self) -> bool:
            return not busy[0]

        def elapsed_time(self, other: Event) -> float:
            return 1e3 * (other.at - self.at)

    def sleep(ticks: int) -> None:
        assert ticks >= timing.LEAD * timing.CLOCK
        busy[0] = True

    def waits(*_: Any) -> None:
        busy[0] = False

    def works() -> None:
        clock[0] += 0.25

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    monkeypatch.setattr(timing, "synchronize", waits)
    calls: dict[str, timing.Call] = {"works": works, "waits": waits}
    found = timing.queued(calls, torch.device("cuda"), 3)
    assert found == {"works": 0.25, "waits": None}
    assert timing.queued(calls, torch.device("cpu"), 3) == dict.fromkeys(calls)


def test_without_a_gpu_only_a_dry_run_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--dry" in capsys.readouterr().err


def test_a_record_of_encoders_grows_by_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoders, "BACKEND", "eager")
    monkeypatch.setattr(encoders, "STRATEGIES", ("tome",))
    out = tmp_path / "encoders.json"
    given = ["--tiny", "--rounds", "1", "--append", "--out", str(out), "--tower"]
    encoders.main([*given, "qwen2.5-vl-112", "--batch", "1", "--strategy", "uniform"])
    encoders.main([*given, "clip-tiny", "--batch", "2", "--compile"])
    encoders.main([*given, "clip-tiny", "--batch", "2"])  # once more
    record = json.loads(out.read_text())
    rows = record["rows"]
    assert [(row["encoder"], row["batch"], row["compiled"]) for row in rows] == [
        ("clip-tiny", 2, False), ("clip-tiny", 2, True), ("qwen2.5-vl-112", 1, False)
    ]  # fmt: skip
    assert [row["strategy"] for row in rows] == ["tome", "tome", "uniform"]
    assert all(row["flops_ratio"] > 1 and row["speedup"] > 0 for row in rows)
    assert [row["select_share"] is None for row in rows] == [False, True, False]
    assert rows[1]["graphs"] == [1, 1]
    out.write_text(json.dumps(record | {"environment": record["environment"] | {"cores": -1}}))
    with pytest.raises(SystemExit):
        encoders.main([*given, "clip-tiny", "--batch", "1"])
    assert "cores: -1 there" in capsys.readouterr().err


def test_a_tower_that_cannot_be_compiled_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(graph: Any, inputs: Any) -> Any:
        raise NotImplementedError("no code for this graph")

    monkeypatch.setattr(encoders, "BACKEND", refusing)
    out = tmp_path / "encoders.json"
    given = ["--tiny", "--tower", "clip-tiny", "--batch", "1", "--rounds", "1", "--compile"]
    encoders.main([*given, "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert ["failed" in row for row in rows] == [False, True] * 2
    assert "no code for this graph" in rows[1]["failed"]


def test_decoding_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a plan that shortens the prompt in front of the LLM, and of one that does so inside."""
    few = {name: decoding.STAGES[name] for name in ("fopru", "fastv")}
    monkeypatch.setattr(decoding, "STAGES", few)
    out = tmp_path / "decoding.json"
    record = decoding.main(["--tiny", "--rounds", "1", "--backend", "eager", "--out", str(out)])
    assert json.loads(out.read_text()) == record
    kinds = (decoding.GROWING, decoding.STATIC)
    assert [(row["images"], row["cache"], row["strategy"]) for row in record["rows"]] == [
        (images, kind, name) for images in (1,) for kind in kinds for name in ("dense", *few)
    ]
    for row in record["rows"]:
        assert row["seconds"] > 0
        assert row["graphs"] == (0 if row["cache"] == decoding.GROWING else 1)


def test_growth_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    few = ["--strategy", "tome", "--strategy", "fastv", "--rounds", "1", "--seconds", "0.001"]
    record = growth.main(["--tiny", *few, "--out", str(out)])
    assert json.loads(out.read_text()) == record
    found = {(row["model"], row["strategy"], row["images"]) for row in record["images"]}
    assert found == {
        (family.name, name, count)
        for family in families(tiny=True)
        for name in family.strategies
        if name in ("tome", "fastv")
        for count in (1, 2)
    }
    assert all(0 < row["seconds"] < row["call_seconds"] for row in record["images"])
    assert {(row["op"], row["picks_by"]) for row in record["tokens"]} == set(NATURES)
    own = [row["flops"] for row in record["tokens"] if row["op"] == growth.ATTENTION]
    assert own[1] == 4 * own[0] > 0


def test_exponents_are_slopes_of_logarithms() -> None:
    sizes = [1, 2, 4, 8, 16]
    rows = [
        {"op": name, "n": n, "took": 3.0 * n**power}
        for name, power in (("line", 1), ("square", 2))
        for n in sizes
    ]
    rows += [{"op": "late", "n": n, "took": max(4.0, n)} for n in sizes]
    rows += [{"op": "noise", "n": n, "took": -1.0} for n in sizes]
    found = {row["op"]: row for row in growth.exponents(rows, ["op"], "n", "took")}
    assert set(found) == {"line", "square", "late"}
    assert found["line"]["exponent"] == pytest.approx(1)
    assert found["square"]["tail"] == pytest.approx(2)
    assert found["late"]["exponent"] < 0.6 < found["late"]["tail"] == pytest.approx(1)
    noisy = [0.9, 2.3, 3.8, 8.5, 15.0]
    line = torch.tensor([[float(torch.tensor(n).log()), 1.0] for n in sizes])
    values = torch.tensor(noisy).log()[:, None]
    least = torch.linalg.lstsq(line, values).solution[0]
    assert growth.slope(sizes, noisy) == pytest.approx(float(least), abs=1e-5)
