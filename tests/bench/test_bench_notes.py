"""What a benchmark says beside its numbers: sizes, positions, backends and percentiles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from tests.compare.tiny import save_llava
from tests.models import IMAGE, PATCHES
from tokenprune.cli.app import app
from tokenprune.errors import DataError
from tokenprune.interface.loading import Frames, LoadedMllm
from tokenprune.lab.bench import backends, bench_tables
from tokenprune.lab.bench.inputs import check_lengths, size_note
from tokenprune.lab.bench.rows import Lane, rows_of
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.bench.workload import Workload
from tokenprune.lab.positions import position_limit

PLAN = "stages: [{at: pre_llm, strategy: uniform, keep: 0.5}]\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    save_llava(folder / "llava")
    (folder / "half.yaml").write_text(PLAN)
    return folder


def call(place: Path, *more: str) -> Any:
    given = ["bench", "--model", str(place / "llava"), "--plans", str(place / "half.yaml")]
    given += ["--rounds", "1", "--new-tokens", "1", "--out", str(place / "record.json")]
    return CliRunner().invoke(app, [*given, "--force", *more])


def fake(pixels: Any, limit: int = 512, **switches: Any) -> LoadedMllm:
    """A model that only prepares: one token a word and one a picture."""

    def prepare(pictures: Any, questions: Any) -> dict[str, Any]:
        counts = [len(one) if isinstance(one, list | Frames) else 1 for one in pictures]
        length = len(questions[0].split()) + counts[0]
        first = pictures[0][0] if isinstance(pictures[0], list | Frames) else pictures[0]
        return {
            "input_ids": torch.zeros(len(questions), length, dtype=torch.long),
            **pixels(first),
        }

    model: Any = nn.Identity()
    model.config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=limit))
    unused: Any = None
    return LoadedMllm("fake", model, prepare, unused, unused, unused, "none", switches)


def fixed(picture: Image.Image) -> dict[str, Any]:
    return {"pixel_values": torch.zeros(1, 3, 30, 40)}


def free(picture: Image.Image) -> dict[str, Any]:
    return {"patches": torch.zeros(9, 3), "grid": torch.tensor([picture.height, picture.width])}


def test_one_resolution_is_told_by_what_is_prepared() -> None:
    note = size_note(fake(fixed), [Workload(height=224, width=224)])
    assert note is not None
    assert "resizes every picture to 30x40" in note
    assert size_note(fake(fixed), [Workload(height=30, width=40)]) is None
    assert size_note(fake(free), [Workload(height=224, width=224)]) is None
    assert size_note(fake(fixed), [Workload(1, 0, 0, 0, 0, own="yours")]) is None


def test_the_note_is_printed_once_and_recorded(place: Path) -> None:
    result = call(place, "--size", "224", "96")
    assert result.exit_code == 0, result.output
    record = json.loads((place / "record.json").read_text())
    said = [note for note in record["notes"] if f"to {IMAGE}x{IMAGE}" in note]
    assert len(said) == 1
    assert " ".join(result.output.split()).count(said[0]) == 1
    assert {row["tokens"]["llm"] for row in record["rows"]} == {PATCHES, PATCHES // 2}


def test_a_workload_beyond_the_positions_is_refused_before_timing(place: Path) -> None:
    result = call(place, "--images", "1", "40")
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "workload 'batch 1, 40 x 336x336'" in text
    assert "into the 512 positions" in text


def test_the_users_own_prompt_has_to_fit_too(place: Path) -> None:
    Image.new("RGB", (IMAGE, IMAGE)).save(place / "one.png")
    result = call(place, "--picture", str(place / "one.png"), "--question", "what " * 600)
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "workload 'batch 1, your input'" in text
    assert "into the 512 positions" in text


def test_the_last_position_may_be_taken() -> None:
    size = Workload(images=4, words=10, new_tokens=6, video=True)
    assert position_limit(fake(fixed).model) == 512
    assert position_limit(nn.Identity()) is None
    check_lengths(fake(fixed, limit=20), [size])
    with pytest.raises(DataError, match=r"14 tokens and 6 new ones .* 19 positions"):
        check_lengths(fake(fixed, limit=19), [replace(size, batch=8)])


def test_every_workload_has_the_backend_that_is_fastest_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state: list[str] = []

    def broken() -> None:
        raise ImportError

    loaded = fake(
        fixed,
        flash=broken,
        small=lambda: state.append("small"),
        large=lambda: state.append("large"),
    )

    def seconds(once: Any, device: Any) -> float:
        once()
        return {"small": 1.0, "large": 2.0}[state[-1]]

    def first(lane: Any, inputs: Any) -> None:
        if state[-1] == inputs:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(backends, "seconds", seconds)
    runner: Any = SimpleNamespace(batches=["none"], device=None, first=first)
    assert backends.fastest_backend(loaded, runner) == state[-1] == "small"
    runner.batches = ["small"]
    assert backends.fastest_backend(loaded, runner) == state[-1] == "large"


def test_the_backend_is_shown_where_it_differs() -> None:
    lane = Lane("dense", None, nn.Identity(), first=[1.0])
    one = rows_of([lane], Workload(), 0.0, "sdpa")
    other = rows_of([lane], Workload(2), 0.0, "eager")
    assert [row.attention for row in one + other] == ["sdpa", "eager"]
    heads = [column.header for column in bench_tables(one + other)[0].columns]
    assert "dense attention" in heads
    assert "dense attention" not in [str(c.header) for c in bench_tables(one)[0].columns]


def test_tokens_are_counted_where_the_heading_says() -> None:
    """A plan before or inside of the LLM leaves the encoder's tokens as they are."""
    tokens = {"encoder": 196.0, "llm": 49.0, "llm_average": 20.0}
    lane = Lane("dense", None, nn.Identity(), first=[1.0], tokens=tokens)
    table = bench_tables(rows_of([lane], Workload(), 0.0))[1]
    shown = {str(column.header): [*column.cells] for column in table.columns}
    assert (shown["LLM in"], shown["LLM mean"]) == (["49"], ["20"])
    assert "encoding" not in str(table.title)
    lane = Lane("dense", None, nn.Identity(), first=[1.0], tokens={"encoder": 196.0})
    table = bench_tables(rows_of([lane], Workload(), 0.0))[1]
    assert [*table.columns[-1].cells] == ["196"]
    assert table.columns[-1].header == "encoder out"


@pytest.mark.parametrize(("rounds", "said"), [(7, True), (20, True), (21, False)])
def test_p95_of_few_rounds_is_called_what_it_is(rounds: int, said: bool) -> None:
    caveat = BenchSettings(rounds=rounds).caveat
    assert (caveat == f"with so few rounds ({rounds}), p95 is nearly the slowest of them") is said
    assert (caveat is None) is not said


@pytest.mark.parametrize(("rounds", "ratios"), [(1, "1 ratio"), (3, "3 ratios")])
def test_verdicts_of_a_round_or_two_say_what_they_rest_on(rounds: int, ratios: str) -> None:
    caveat = BenchSettings(rounds=rounds).caveat
    assert caveat is not None
    assert caveat.endswith(f"what is called faster or slower rests on {ratios}")
