"""Plans, studies and checkpoints made to break or block who reads them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tokenprune.errors import CheckpointError, PlanError, TokenpruneError
from tokenprune.errors.files import check_file, is_file, read_text
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.data.reading import open_picture
from tokenprune.lab.studies import load_study
from tokenprune.plan import load_plan, read
from tokenprune.plan.read import parse
from tokenprune.plugins.strategies import strategy_class

STAGE = "{at: pre_llm, strategy: random, keep: 4}"


def written(folder: Path, text: str, name: str = "plan.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", ".", "/dev/null", "a" * 5000])
def test_only_regular_files_are_read(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = Path(name) if name.startswith("/") else tmp_path / name
    plan = written(tmp_path, f"extends: {path}\nstages: [{STAGE}]")
    vistog = {"checkpoint": path}
    for read_it in (
        lambda: load_plan(plan),
        lambda: load_plan(path),
        lambda: load_study(path),
        lambda: read_jsonl(path),
        lambda: open_picture(path),
        lambda: strategy_class("vistog").from_params(**vistog),
    ):
        with pytest.raises(TokenpruneError) as caught:
            read_it()
        assert len(str(caught.value)) < 25_000


def test_files_have_a_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = written(tmp_path, f"stages: [{STAGE}]")
    monkeypatch.setattr(read, "PLAN_BYTES", 10)
    with pytest.raises(PlanError, match="bytes, at most 10 are read"):
        load_plan(plan)
    check_file(plan)
    with pytest.raises(OSError, match="at most 3 are read"):
        read_text(plan, 3)
    assert is_file(plan)
    assert not is_file(Path("a\0b"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 0x" + "f" * 5000, "more than 128 bits"),
        ("seed: 0b" + "1" * 20_000, "more than 128 bits"),
        ("seed: " + "9" * 5000, "YAML"),
        ("a: " + "[" * 60 + "]" * 60, "more than 50 levels"),
        ("a: " + "[" * 3000 + "]" * 3000, "YAML"),
        ("a: &a [*a]", "more than 50 levels"),
        ("a: &a [1, 2, 3]\n" + "".join(
            f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ), "more than 200,000 values"),
        ('extends: "a\\0b"', "no file can be called"),
    ],
)  # fmt: skip
def test_texts_that_break_readers_are_refused_soon(text: str, says: str, tmp_path: Path) -> None:
    plan = written(tmp_path, f"{text}\nstages: [{STAGE}]")
    start = time.monotonic()
    with pytest.raises(PlanError, match=says) as caught:
        load_plan(plan)
    assert time.monotonic() - start < 30
    assert len(str(caught.value)) < 2000


def test_overrides_are_looked_at_as_well(tmp_path: Path) -> None:
    plan = written(tmp_path, f"stages: [{STAGE}]")
    with pytest.raises(PlanError, match="128 bits"):
        load_plan(plan, overrides=["seed=0x" + "f" * 5000])


def test_a_byte_order_mark_is_no_part_of_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + f"stages: [{STAGE}]".encode())
    assert load_plan(path).stages[0].strategy == "random"


def test_numbers_that_plans_need_are_taken() -> None:
    assert parse(f"{{a: {2**80}, b: -1, c: true, d: 1.5}}", "here")["a"] == 2**80


def test_a_checkpoint_that_is_a_pipe_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no regular file"):
        strategy_class("vistog").from_params(checkpoint=tmp_path / "w.safetensors")
