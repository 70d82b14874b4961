"""Options that would be ignored are refused, and no folder of a model runs code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tokenprune.cli.app import app
from tokenprune.lab.studies.model import TaskEntry
from tokenprune.reference import reference_model_path


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ("--images nofolder", "--images"),
        ("--images nofolder --labels nofile.csv", "--images"),
        ("--labels nofile.csv", "--labels"),
        ("--split first", "--split"),
    ],
)
def test_pictures_without_an_encoder_are_refused(options: str, option: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = CliRunner().invoke(app, f"compare --limit 1 --out {out} {options}")
    assert result.exit_code == 2
    assert f"{option} labelled pictures are for encoders" in " ".join(result.output.split())
    assert not out.exists()


def test_weights_beside_a_folder_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"")
    out = tmp_path / "out.json"
    result = CliRunner().invoke(app, f"compare --limit 1 --out {out} --weights {weights}")
    assert result.exit_code == 2
    assert "brings its own weights" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kind": "jsonl", "path": "a", "labels": "b"}, "'labels' goes with the kind 'pictures'"),
        ({"kind": "jsonl", "path": "a", "split": "b"}, "'split' goes with the kind 'dataset'"),
        ({"kind": "image", "columns": {"answer": "b"}}, "'columns' goes with the kind 'dataset'"),
        ({"kind": "pictures", "path": "a", "revision": "b"}, "'revision' goes with"),
        ({"kind": "dataset", "dataset": "a", "path": "b"}, "'path' goes with"),
    ],
)
def test_keys_that_a_task_would_ignore_are_refused(keys: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TaskEntry.model_validate(keys)


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_a_models_folder_runs_no_code_and_nobody_is_asked(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reference_model_path(), folder)
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    config = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    kinds = ("AutoConfig", "AutoProcessor", "AutoTokenizer", "AutoModelForImageTextToText")
    config["auto_map"] = dict.fromkeys(kinds, "evil.Evil")
    if file == "config.json":
        config["model_type"] = "evil"
    (folder / file).write_text(json.dumps(config))
    command = f"compare --model {folder} --limit 1 --keep 4 --out {tmp_path / 'out.json'}"
    command += f" --plans {_plan(tmp_path)}"
    result = CliRunner().invoke(app, command, input="y\n" * 9)
    assert not mark.exists()
    assert "[y/N]" not in result.output
    assert file != "config.json" or result.exit_code == 2


def _plan(folder: Path) -> Path:
    (folder / "p.yaml").write_text("stages: [{at: pre_llm, strategy: random, keep: 4}]")
    return folder / "p.yaml"
