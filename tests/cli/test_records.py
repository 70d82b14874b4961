"""Records of `compare` and `bench`: none is lost, and none costs the tables."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tests.cli.test_commands import run
from tokenprune.lab.measure import files

FEW = {"compare": ("--limit", 2), "bench": ("--rounds", 1, "--size", 28, "--new-tokens", 1)}


def brief(command: str, model: Path, folder: Path) -> tuple[object, ...]:
    """A brief run of a command on one plan, which is written into a folder."""
    plan = folder / "plan.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: random, keep: 4}]")
    return (command, "--plans", plan, "--model", model, *FEW[command])


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_a_record_is_replaced_only_if_asked_for(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    plain, out = brief(command, llava_folder, tmp_path), tmp_path / "record.json"
    args = (*plain, "--out", out)
    out.touch()
    assert run(*args)[0] == 0
    first = out.read_text()
    code, _, said = run(*args)
    assert code == 2
    assert "--force" in said
    assert out.read_text() == first
    assert run(*args, "--force")[0] == 0
    assert out.read_text() != first
    # where nobody named a record, it gets a name of its own
    monkeypatch.chdir(tmp_path)
    name = {"compare": "comparison", "bench": "bench"}[command]
    assert f"record: {name}.json" in run(*plain)[1]
    assert f"record: {name}-2.json" in run(*plain)[1]
    # another run, started beside this one, writes its record before this one ends
    second = out.read_text()
    monkeypatch.setattr(files, "record_path", lambda path, *_, **__: path)
    code, said, _ = run(*args)
    assert code == 0
    assert "record-2.json" in said
    assert out.read_text() == second
    assert json.loads((tmp_path / "record-2.json").read_text())


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_the_tables_are_printed_where_there_is_no_room_for_the_record(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    out = tmp_path / "record.json"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, said, err = run(*brief(command, llava_folder, tmp_path), "--out", out)
    assert code == 2
    assert "Make room there" in err
    assert not out.exists()
    assert "dense" in said
    assert "record:" not in said
