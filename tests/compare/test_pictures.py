from pathlib import Path

import pytest
from PIL import Image

from tokenprune.errors import DataError
from tokenprune.lab.data.pictures import (
    halve,
    heldout_questions,
    labelled_pictures,
    spread,
)
from tokenprune.lab.data.reading import open_picture
from tokenprune.reference import TYPES


def test_as_many_images_as_can_be_are_asked_about() -> None:
    some = heldout_questions(60)
    assert [question.image_id for question in some] == list(range(60))
    assert {question.kind for question in some} == set(TYPES)
    assert all(question.text and question.answer for question in some)
    again = heldout_questions(30)
    assert [q.text for q in again] == [q.text for q in some[:30]]


def test_beyond_the_images_there_are_second_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenprune.reference.heldout.HELDOUT_IMAGES", 5)
    some = heldout_questions(12)
    assert [question.image_id for question in some[:10]] == [0, 1, 2, 3, 4] * 2
    assert len({(question.image_id, question.text) for question in some}) == 12
    assert len(heldout_questions(None)) > 15


@pytest.mark.parametrize("limit", [1, 3, 7, 10, 11, None])
def test_spread_takes_what_is_asked_for_in_order(limit: int | None) -> None:
    taken = spread(range(10), limit)
    assert len(taken) == min(limit or 10, 10)
    assert taken == sorted(set(taken))


def test_halves_are_disjoint_complete_and_fixed() -> None:
    first, second = halve(range(101), "first"), halve(range(101), "second")
    assert sorted(first + second) == list(range(101))
    assert len(first) - len(second) == 1
    assert first == halve(range(101), "first")
    assert first != list(range(51))


def test_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="first, second or all"):
        halve([1], "third")


def test_labels_are_read(pictures: Path) -> None:
    found = labelled_pictures(pictures, pictures / "labels.csv", classes=6)
    assert [question.answer for question in found] == list("012345")
    assert open_picture(found[0].image).size == (200, 180)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no labels"),
        ("file,class_index\n", "no labels"),
        ("name,number\n0.png,1\n", "no column file"),
        ("file,number\n0.png,1\n", "no column imagenet_class_index"),
        ("file,class_index\n0.png,x\n", "'x' is no class"),
        ("file,class_index\n0.png,6\n", "from 0 to 5"),
        ("file,class_index\n0.png,-1\n", "from 0 to 5"),
        ("file,class_index\n0.png\n", "is no class"),
        ("file,class_index\nabsent.png,1\n", "no picture"),
        ("file,class_index\n,1\n", "no picture"),
        ("file,class_index\n0.png,1,2\n", "3 values in 2 columns"),
        ("file,label,label\n0.png,1,2\n", "two columns have one name"),
        ("file,class_index\n0.png,0_1\n", "'0_1' is no class"),
    ],
)
def test_bad_labels_name_the_line(pictures: Path, tmp_path: Path, text: str, says: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        labelled_pictures(pictures, labels, classes=6)
    assert "labels.csv" in caught.value.where
    labels.write_text("File;Class_Index\n0.png;1\n\n1.png;9\n")
    with pytest.raises(DataError, match="'9' is no class") as caught:
        labelled_pictures(pictures, labels, classes=6)
    assert caught.value.where == f"{labels}:4"


def test_absent_labels_and_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels can't be read"):
        labelled_pictures(tmp_path, tmp_path / "no.csv", classes=2)
    with pytest.raises(DataError, match="picture can't be read"):
        open_picture(tmp_path / "no.png")


def test_a_damaged_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (64, 64), "red").save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="can't be read"):
        open_picture(path)
