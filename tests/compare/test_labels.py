"""Labels, class names and answers as people have them; commands that could never work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tokenprune.cli.app import app
from tokenprune.errors import DataError, UnsupportedModelError
from tokenprune.interface.loading import LoadOptions
from tokenprune.lab.data.candidates import read_classes
from tokenprune.lab.data.pictures import labelled_pictures
from tokenprune.lab.models import load_model
from tokenprune.lab.train.data import read_questions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def test_rows_with_the_same_picture_are_one_group(folder: Path) -> None:
    labels = folder / "labels.csv"
    labels.write_text("file,class_index\na.png,0\nb.png,1\na.png,2\n./a.png,0\n")
    found = labelled_pictures(folder, labels, classes=3)
    assert [one.image_id for one in found] == [0, 1, 0, 0]
    assert [one.where for one in found] == [f"{labels}:{line}" for line in (2, 3, 4, 5)]


def test_rows_with_the_same_picture_stand_in_one_half(folder: Path) -> None:
    for number in range(6):
        Image.new("RGB", (4, 4)).save(folder / f"{number}.png")
    labels = folder / "labels.csv"
    rows = [f"{number}.png,{label}" for label in (0, 1) for number in range(6)]
    labels.write_text("\n".join(["file,class_index", *rows]))
    halves = [labelled_pictures(folder, labels, classes=3, split=s) for s in ("first", "second")]
    groups = [{one.image_id for one in half} for half in halves]
    assert [len(half) for half in halves] == [6, 6]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == set(range(6))


def test_two_classes_of_one_name_are_refused(folder: Path) -> None:
    names = folder / "names.txt"
    names.write_text("hen\ncrane\nking\ncrane \n")
    with pytest.raises(DataError, match="the classes 1 and 3 are both called 'crane'"):
        read_classes(names)
    names.write_text("hen\ncrane (bird)\nking\ncrane (machine)\n")
    assert len(read_classes(names)) == 4


@pytest.mark.parametrize(
    ("row", "answer", "others"),
    [
        ({"answer": "red"}, "red", ()),
        ({"answer": ["red", "blue", "red"]}, "red", ("blue",)),
        ({"answers": ["red", "blue"]}, "red", ("blue",)),
        ({"answers": [{"answer": "a"}, {"answer": "b"}, {"answer": "b"}]}, "b", ("a",)),
    ],
)
def test_training_learns_what_most_people_said(
    folder: Path, row: dict[str, object], answer: str, others: tuple[str, ...]
) -> None:
    path = folder / "qa.jsonl"
    path.write_text(json.dumps({"image": "a.png", "question": "what ?", **row}) + "\n")
    (found,) = read_questions(path)
    assert (found.answer, found.others, found.where) == (answer, others, f"{path}:1")


def test_a_loader_that_loads_none_of_the_kind_is_not_asked(tmp_path: Path) -> None:
    """It would try the network for a minute before it said so."""
    with pytest.raises(UnsupportedModelError, match="'timm:' loads classifier models"):
        load_model("timm:vit_tiny_patch16_224", LoadOptions(), wanted="mllm")
    plan = tmp_path / "plan.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: vistog, keep: 16}]\n")
    given = ["train", "vistog", "--plan", str(plan), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*given, "--model", "timm:vit_tiny_patch16_224"])
    assert result.exit_code == 2
    assert "a model of kind 'mllm' is needed" in result.output
