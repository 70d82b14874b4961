"""Plans, studies, rows, labels and records that are damaged: read, or refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import ROOT
from tests.fuzz.mutate import inputs, mutated, refused_in_words
from tests.reporting import made
from tokenprune.lab.data.candidates import read_classes
from tokenprune.lab.data.captions import captioned_pictures
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.data.pictures import labelled_pictures
from tokenprune.lab.measure.code import digest
from tokenprune.lab.report import read_results
from tokenprune.lab.report.page import html
from tokenprune.lab.studies import load_study
from tokenprune.lab.studies.load import cells
from tokenprune.lab.studies.store import Damaged, Record, Store, parse
from tokenprune.lab.studies.summary import summarise
from tokenprune.lab.train.data import read_questions
from tokenprune.plan import dump_plan, load_plan

PLANS = sorted((ROOT / "examples" / "plans").glob("*.yaml"))
STUDIES = sorted((ROOT / "examples" / "studies").glob("*.yaml"))

ROWS = (
    {"image": "0.png", "question": "what ?", "answer": "yes", "type": "a"},
    {"images": ["0.png", "0.png"], "question": "which ?", "answers": ["a", "b"]},
    {"image": "0.png", "question": "how ?", "answers": [{"answer": "3", "answer_id": 1}]},
    {"video": "0.gif", "question": "when ?", "answer": "now"},
    {"image": "0.png", "caption": ["one", "two"]},
)


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "0.gif")
    return tmp_path


def fuzz(read: Callable[[Path], object], goods: list[bytes], path: Path, count: int) -> int:
    """How many inputs were refused."""
    refused = 0
    for data in inputs(goods, count, seed=17):
        path.write_bytes(data)
        refused += refused_in_words(lambda: read(path), data)
    return refused


def test_plans(folder: Path, times: int) -> None:
    def read(path: Path) -> None:
        dump_plan(load_plan(path))

    goods = [path.read_bytes() for path in PLANS]
    assert fuzz(read, goods, folder / "plan.yaml", 250 * times) > 0


def test_studies(folder: Path, times: int) -> None:
    goods = [path.read_bytes() for path in STUDIES]
    target = folder / "study.yaml"
    assert fuzz(lambda path: cells(load_study(path)), goods, target, 60 * times) > 0


@pytest.mark.parametrize(
    "read",
    [
        read_jsonl,
        lambda path: read_jsonl(path, frames=2),
        lambda path: read_jsonl(path, answers=False),
        captioned_pictures,
        read_questions,
        read_classes,
    ],
)
def test_rows(read: Callable[[Path], object], folder: Path, times: int) -> None:
    goods = [lines(*ROWS[:3]), lines(ROWS[0]), lines(ROWS[3], ROWS[3]), lines(ROWS[4], ROWS[4])]
    assert fuzz(read, goods, folder / "rows.jsonl", 150 * times) > 0


def test_labels(folder: Path, times: int) -> None:
    goods = [b"file,class_index\n0.png,1\n0.png,2\n", b'path,label\r\n"0.png",0\r\n']

    def read(path: Path) -> object:
        return labelled_pictures(folder, path, classes=3)

    assert fuzz(read, goods, folder / "labels.csv", 250 * times) > 0


def test_records_are_whole_or_damaged(times: int) -> None:
    one = made.record("fopru-8", "fopru")
    for data in inputs([one.text().encode()], 200 * times, seed=5):
        try:
            found = parse(data.decode("utf-8", "replace"), one.key)
        except Damaged:
            continue
        assert found.identity == one.identity


def test_odd_records_with_a_right_checksum_take_no_report_along(tmp_path: Path, times: int) -> None:
    """Whoever edits a record can put any checksum below it; only its own cell may suffer."""
    rng = np.random.default_rng(3)
    good = [made.record("dense", None), made.record("random-8", "random")]
    made.save(tmp_path, good)
    store = Store(tmp_path)
    for number in range(40 * times):
        text = mutated(json.dumps(made.record(f"x-{number}", "fopru").result).encode(), rng)
        identity = dict(made.record(f"x-{number}", "fopru").identity)
        try:
            result = json.loads(text)
            written = Record(identity, "done", result).text()
        except (ValueError, RecursionError, TypeError):
            continue
        path = store.path(digest(identity))
        path.write_text(written)
        results = read_results(tmp_path, everything=True)
        groups = summarise(results.records)
        page = html(results, groups)
        assert "dense" in page
        path.unlink()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
STAGE = st.fixed_dictionaries(
    {},
    optional={
        "at": st.sampled_from(["encoder", "pre_llm", "decoder", "llm"]) | VALUES,
        "strategy": st.sampled_from(["random", "fopru", "tome", "fastv", "vistog"]) | VALUES,
        "keep": st.integers(-2, 300) | st.floats(0, 2) | VALUES,
        "layer": st.integers(-2, 90) | VALUES,
        "schedule": st.sampled_from(["skip", "linear"]) | VALUES,
        "params": VALUES,
    },
)
PLAN = st.fixed_dictionaries(
    {},
    optional={
        "schema_version": st.just(1) | VALUES,
        "seed": st.integers() | VALUES,
        "positions": st.sampled_from(["original", "compact"]) | VALUES,
        "images": st.sampled_from(["separate", "frames"]) | VALUES,
        "stages": st.lists(STAGE, max_size=3) | VALUES,
        "name": VALUES,
    },
)


@given(PLAN)
@settings(max_examples=150, deadline=None)
def test_mappings_are_plans_or_refused(data: dict[str, Any]) -> None:
    if not refused_in_words(lambda: load_plan(data), repr(data).encode()):
        again = yaml.safe_load(dump_plan(load_plan(data)))
        assert load_plan(again) == load_plan(data)


@given(st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_overrides_are_understood_or_refused(text: str) -> None:
    refused_in_words(lambda: load_plan(PLANS[0], overrides=[text]), text.encode(errors="replace"))
