"""`compare`, `bench` and `show` with the folder of a dual encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.dual import tiny
from tests.models import PATCHES, pixels
from tokenprune.cli import app
from tokenprune.engine.attach import attach
from tokenprune.interface.loading import LoadedDual
from tokenprune.lab.bench import compiling
from tokenprune.lab.bench.rows import Lane
from tokenprune.plan import load_plan

STAGES = {"stages": [{"at": "encoder", "strategy": "tome", "keep": 9}]}


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def refused(*args: object) -> str:
    code, said = run(*args)
    assert code == 2, said
    return said


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "merged.yaml"
    file.write_text(yaml.safe_dump(STAGES))
    return file


def test_a_study_runs_and_is_reported(folders: dict[str, Path], tmp_path: Path) -> None:
    tiny.save_colours(tmp_path)
    labels = {"labels": "labels.csv", "classes": "classes.txt"}
    study = {
        "out": "records",
        "models": [{"name": str(folders["clip"])}],
        "tasks": [
            {"kind": "pictures", "path": ".", **labels, "prompts": list(tiny.PROMPTS)},
            {"kind": "captions", "path": "captions.jsonl"},
        ],
        "plans": [{"name": "merged", "plan": STAGES, "grid": {"stages.0.keep": [9, 18]}}],
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    code, said = run("study", file, "--dry-run")
    assert (code, said.count("to run")) == (0, 6)
    code, said = run("study", file)
    assert code == 0
    assert "6 cells ran now, 6 are recorded" in said
    assert f"{folders['clip'].name}, captions" in said
    code, said = run("report", tmp_path / "records", "--no-figures")
    assert code == 0
    assert "merged keep=18" in (tmp_path / "records" / "report.html").read_text()


def compared(folder: Path, colours: Path, *more: object) -> tuple[object, ...]:
    given = ("--images", colours, "--labels", colours / "labels.csv")
    return ("compare", "--model", folder, *given, "--classes", colours / "classes.txt", *more)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_compare_runs_every_method_on_the_models_own_grid(
    family: str, folders: dict[str, Path], colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.json"
    prompts = ("--prompt", tiny.PROMPTS[0], "--prompt", tiny.PROMPTS[1])
    code, said = run(*compared(folders[family], colours, *prompts, "--out", out, "--answers"))
    assert code == 0
    assert "patches" in said
    record = json.loads(out.read_text())
    assert record["kind"] == "dual"
    assert record["task"]["prompts"] == list(tiny.PROMPTS)
    assert record["task"]["classes"] == "classes.txt"
    assert record["dense"]["accuracy"]["value"] > 0.7
    assert len(record["dense"]["answers"]) == record["task"]["samples"] == 2 * len(tiny.NAMES)
    kept = {row["tokens"]["encoder_inside"] for row in record["results"] if row["name"] == "random"}
    assert kept == {PATCHES * 3 // 4, PATCHES // 2, 11, PATCHES // 4}


def test_compare_with_one_plan_in_two_processes(
    folders: dict[str, Path], colours: Path, plan: Path, tmp_path: Path
) -> None:
    given = compared(folders["clip"], colours, "--plans", plan, "--limit", 4)
    rows = []
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}.json"
        more = ("--keep", 9, "--keep", 6, "--jobs", jobs, "--out", out)
        assert run(*given, *more)[0] == 0
        rows.append([row["accuracy"] for row in json.loads(out.read_text())["results"]])
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


def test_what_compare_refuses(folders: dict[str, Path], colours: Path) -> None:
    clip = ("compare", "--model", folders["clip"])
    assert "--classes NAMES.txt" in refused(*clip)
    names = ("--classes", colours / "classes.txt")
    assert "--images FOLDER" in refused(*clip, *names)
    assert "only dual encoders" in refused("compare", *names)
    assert "only dual encoders" in refused("compare", "--prompt", "a {}")
    whole = compared(folders["clip"], colours)
    assert "no place for the name" in refused(*whole, "--prompt", "a photo")
    assert "no questions about videos" in refused(*whole, "--task", "video")
    assert "this model has none" in refused(*whole, "--probe", "all")


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_bench_measures_the_vision_tower(
    family: str, folders: dict[str, Path], plan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "b.json"
    given = ("bench", "--model", folders[family], "--plans", plan, "--out", out)
    code, _ = run(*given, "--rounds", 2, "--batch-size", 2, "--flops", "formula")
    assert code == 0
    record = json.loads(out.read_text())
    assert record["model"]["kind"] == "dual"
    assert record["model"]["attention"] in ("sdpa", "eager")
    dense, merged = record["rows"]
    assert (dense["tokens"]["patches"], merged["tokens"]["encoder"]) == (PATCHES, 9)
    assert 0 < merged["flops"] < dense["flops"]
    assert dense["ttft"] is None
    assert merged["stages"]["select"] > 0


def test_bench_takes_pictures_and_no_words(
    folders: dict[str, Path], colours: Path, plan: Path, tmp_path: Path
) -> None:
    given = ("bench", "--model", folders["clip"], "--plans", plan, "--rounds", 1)
    mine = ("--picture", colours / "0.png", "--picture", colours / "1.png")
    assert run(*given, *mine, "--out", tmp_path / "b.json")[0] == 0
    assert "an encoder gets single pictures" in refused(*given, *mine, "--question", "what?")


def test_a_compiled_tower_embeds_alike(
    loaded: dict[str, LoadedDual], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    one, plan = loaded["siglip"], load_plan(STAGES)
    inputs: dict[str, Any] = {"pixel_values": pixels()}
    with torch.no_grad(), compiling.room():
        with attach(one.model, plan):
            expected = one.embed(one.model, inputs)
        part = compiling.compiled_part(one)
        lane = compiling.compiled(Lane("tome", plan, one.model), "default", part)
        compiling.settle(lane, lambda: one.embed(lane.model, inputs))
        before = compiling.compilations()
        torch.testing.assert_close(one.embed(lane.model, inputs), expected)
        assert compiling.compilations() == before > 0


def test_show_says_how_near_the_embedding_stayed(
    folders: dict[str, Path],
    loaded: dict[str, LoadedDual],
    colours: Path,
    plan: Path,
    tmp_path: Path,
) -> None:
    from tokenprune.lab.drawing.show import show

    out = tmp_path / "s.png"
    given = ("show", colours / "0.png", "--plan", plan, "--model", folders["clip"], "--out", out)
    assert run(*given)[0] == 0
    assert Image.open(out).width > 2 * 48
    sheet = show(loaded["clip"], load_plan(STAGES), [("0.png", tiny.picture("red", 100))])
    assert sheet.size == Image.open(out).size
