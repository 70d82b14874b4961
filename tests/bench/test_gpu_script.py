"""The benchmarks of encoders and of what only a GPU can tell run, on tiny models and any device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import encoders, gpu
from benchmarks.towers import towers

pytest.importorskip("timm")
pytest.importorskip("transformers")


def test_the_gpu_script_runs_to_its_end(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    record = gpu.main(["--dry", "--seconds", "600", "--out", str(out)])
    assert json.loads(out.read_text()) == record
    assert record["dry"]
    assert record["left_out"] == []
    assert {row["op"] for row in record["kernels"]} >= {"bipartite_match", "merge_compact"}
    found = {(row["tower"], row["batch"], row["mode"], row["strategy"]) for row in record["towers"]}
    names = [tower.name for tower in towers(tiny=True)]
    assert {(name, 2, "eager", "evoprune") for name in names} <= found
    assert {(names[0], 1, mode, "tome") for mode in gpu.MODES} <= found
    assert all(row["seconds"] > 0 for row in record["towers"])
    timed = [row for row in record["first_token"] if "refused" not in row]
    assert {(row["model"], row["images"]) for row in timed} == {
        (family, images) for family in ("llava-7b", "qwen2.5-vl-7b") for images in (1, 2)
    }


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    record = gpu.main(["--dry", "--seconds", "0", "--out", str(tmp_path / "gpu.json")])
    assert record["towers"] == []
    assert "vit-tiny, batch 1, eager" in record["left_out"]
    assert "llava-7b, time to first token" in record["left_out"]


def test_without_a_gpu_only_a_dry_run_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--dry" in capsys.readouterr().err


def test_encoders_are_measured_eager_and_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "BACKEND", "eager")
    out = tmp_path / "encoders.json"
    given = ["--tiny", "--tower", "clip-tiny", "--batch", "2", "--rounds", "1", "--compile"]
    encoders.main([*given, "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["strategy"], row["compiled"]) for row in rows] == [
        (name, compiled) for compiled in (False, True) for name in encoders.STRATEGIES
    ]
    assert all(row["kept"] == 18 and row["flops_ratio"] > 1 for row in rows)
    assert [row["select_share"] is None for row in rows] == [False, False, True, True]
