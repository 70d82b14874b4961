"""Rows as people have them: several answers, odd files, and what is no text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.compare.tiny import save_pictures
from tokenprune.errors import DataError
from tokenprune.lab.data.candidates import read_classes
from tokenprune.lab.data.captions import captioned_pictures
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.data.pictures import labelled_pictures
from tokenprune.lab.data.question import Question
from tokenprune.lab.train.data import read_questions

GOOD = {"image": "0.png", "question": "what ?", "answer": "red"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two pictures."""
    save_pictures(tmp_path, 2)
    return tmp_path


def write(folder: Path, *rows: Any, name: str = "q.jsonl", start: bytes = b"") -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / name).write_bytes(start + "\n".join(lines).encode("utf-8", "surrogatepass"))
    return folder / name


def row(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**GOOD, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({"answer": ["red", "Red", "red"]}, ("red", "Red", "red")),
        ({"answer": None, "answers": ["red", "blue"]}, ("red", "blue")),
        ({"answer": None, "answers": [{"answer": "red", "answer_id": 1}]}, ("red",)),
        ({"answer": None, "answers": {"answer": ["red", "blue"]}}, ("red", "blue")),
        ({"answer": None, "answers": "red"}, ("red",)),
        ({"answer": ["red"]}, ("red",)),
    ],
)
def test_several_answers_are_right(folder: Path, changes: Any, answers: tuple[str, ...]) -> None:
    (found,) = read_jsonl(write(folder, row(**changes)))
    assert (found.answer, *found.others) == answers
    assert found.matched("RED.") == "red"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "q.csv",
            ["image,question,answer,type", '0.png,"one, two ?",3,', "", '1.png,"a ""b""\nc",d,e'],
        ),
        (
            "q.csv",
            ["\ufeffimage;question;answer;type", "0.png;one, two ?;3;", '1.png;"a ""b""\nc";d;e'],
        ),
        (
            "q.TSV",
            ["image\tquestion\tanswer\ttype", "0.png\tone, two ?\t3", '1.png\t"a ""b""\nc"\td\te'],
        ),
    ],
    ids=["commas", "semicolons", "tabs"],
)
def test_a_table_has_the_same_rows(folder: Path, name: str, lines: list[str]) -> None:
    """As spreadsheets write it: all values are texts, empty cells are missing."""
    first, second = read_jsonl(write(folder, *lines, name=name))
    assert (first.image, first.text, first.answer, first.kind) == (
        folder / "0.png",
        "one, two ?",
        "3",
        "",
    )
    assert (second.image, second.text, second.answer, second.kind) == (
        folder / "1.png",
        'a "b"\nc',
        "d",
        "e",
    )


@pytest.mark.parametrize(
    ("lines", "place", "says"),
    [
        (["file,prompt,label", "0.png,a,b"], 2, "names the columns, here file, prompt, label"),
        (["image,question,answer", "0.png,a, b,c"], 2, "4 values in 3 columns"),
        (["image,question,answer", "0.png,a,"], 2, "no 'answer'"),
        (["image,question,answer", '0.png,"a"b,c'], 2, "no row of a table"),
        (["image,answer,answer", "0.png,a,b"], 1, "two columns have one name"),
        (["image,question,answers", "0.png,a,\"['b', 'c']\""], 2, "list in Python's form"),
        (["image,question,answer"], 0, "holds no questions"),
        ([], 0, "holds no questions"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(
    folder: Path, lines: list[str], place: int, says: str
) -> None:
    with pytest.raises(DataError) as error:
        read_jsonl(write(folder, *lines, name="q.csv"))
    assert says in str(error.value)
    assert error.value.where == f"{folder / 'q.csv'}" + (f":{place}" if place else "")


@pytest.mark.parametrize(
    "lines",
    [
        ["Image,Question,ANSWER", "0.png,one ?,red"],
        ["image, question, answer", '0.png, one ?, "red"'],
        ["image\tquestion\tanswer", "0.png\tone ?\tred"],
        ["image ,question , answer", "0.png ,one ? , red ", "  ,  "],
        ["image,question,answers", '0.png,one ?,"[""red"", ""a""]"'],
        ["image;question;answer", '0.png;one ?;"[""red""]"'],
    ],
)
def test_a_table_is_read_as_people_write_it(folder: Path, lines: list[str]) -> None:
    (found,) = read_jsonl(write(folder, *lines, name="q.csv"))
    assert (found.image, found.text, found.answer) == (folder / "0.png", "one ?", "red")


def test_a_file_of_another_encoding_is_told_which_is_read(folder: Path) -> None:
    (folder / "q.csv").write_bytes(
        "image,question,answer\n0.png,o\u00f9 ?,l\u00e0\n".encode("latin-1")
    )
    with pytest.raises(DataError, match="UTF-8"):
        read_jsonl(folder / "q.csv")
    with pytest.raises(DataError, match=r"end in \.csv or \.tsv"):
        read_jsonl(write(folder, "image,question,answer", name="q.txt"))


def test_tables_are_read_wherever_rows_are(folder: Path) -> None:
    path = write(folder, "image,question,answer", "0.png,what ?,red", name="questions.csv")
    assert [one.answer for one in read_jsonl(folder)] == ["red"]
    assert len(read_questions(path)) == 1
    path = write(folder, "image,caption", "0.png,a dog", name="c.csv")
    assert captioned_pictures(path)[0].answer == "a dog"


def test_a_list_of_objects_is_told_to_be_lines(folder: Path) -> None:
    with pytest.raises(DataError, match="an object of its own"):
        read_jsonl(write(folder, json.dumps([row()])))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"answer": 3}, "'answer' has to be a text, and this is a whole number"),
        ({"answer": True}, "'answer' has to be a text"),
        ({"answer": ["red", None]}, "'answer' has to be a text, and this is nothing"),
        ({"answer": [["red"]]}, "'answer' has to be a text"),
        ({"answer": {"text": "red"}}, "'answer' has to be a text"),
        ({"answer": []}, "'answer' names none"),
        ({"answer": None}, "there is no 'answer'"),
        ({"answers": ["red"]}, "one of them would be ignored"),
        ({"question": 3}, "'question' has to be a text"),
        ({"question": ["a", "b"]}, "'question' has to be a text"),
        ({"question": None}, "there is no 'question'"),
        ({"type": 3}, "'type' has to be a text"),
        ({"image": ["0.png", 1]}, "names no picture"),
        ({"image": "0.png" * 200}, "there is no picture"),
        ({"image": "a\0b.png"}, "there is no picture"),
        ({"image": "."}, "there is no picture"),
        ({"question": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(folder: Path, changes: Any, says: str) -> None:
    line = json.dumps(row(**changes))
    path = write(folder, GOOD, line)
    with pytest.raises(DataError, match=says) as caught:
        read_jsonl(path)
    assert caught.value.where == f"{path}:2"
    assert len(str(caught.value)) < 1500


def test_answers_that_are_held_back_are_refused(folder: Path) -> None:
    """Whatever a model answered was wrong; where it answers nothing itself, that may be right."""
    held = row(answer=None, answers=[""] * 10)
    with pytest.raises(DataError, match="all right answers are empty"):
        read_jsonl(write(folder, held, row(answer=" ")))
    assert [one.answer for one in read_jsonl(write(folder, held, GOOD))] == ["", GOOD["answer"]]


@pytest.mark.parametrize(
    "line",
    ["[" * 100_000, '{"question": ' + "1" * 5000 + "}", "[1]", "{", "\0", '{"a": 1, "a": 2}'],
)
def test_lines_that_are_no_objects_are_named(folder: Path, line: str) -> None:
    for read in (read_jsonl, captioned_pictures, read_questions):
        path = write(folder, line)
        with pytest.raises(DataError, match="the line is") as caught:
            read(path)
        assert caught.value.where == f"{path}:1"


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085"])
def test_line_ends_of_unicode_are_part_of_a_text(folder: Path, mark: str) -> None:
    text = f"a{mark}b"
    path = write(folder, row(question=text, caption="c"), row(answer="x", caption=text))
    assert [one.text for one in read_jsonl(path)] == [text, "what ?"]
    assert [one.text for one in read_questions(path)] == [text, "what ?"]
    assert captioned_pictures(path)[0].others == (text,)


def test_a_byte_order_mark_is_no_part_of_a_file(folder: Path) -> None:
    start = b"\xef\xbb\xbf"
    assert len(read_jsonl(write(folder, GOOD, start=start))) == 1
    assert len(read_questions(write(folder, GOOD, start=start))) == 1
    labels = write(folder, "file,class_index", "0.png,1", name="l.csv", start=start)
    assert [one.answer for one in labelled_pictures(folder, labels, classes=2)] == ["1"]
    names = write(folder, "cat", "dog\u0085s", "", name="c.txt", start=start)
    assert read_classes(names) == ("cat", "dog\u0085s")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_ends_of_lines_are_taken(folder: Path, end: str) -> None:
    (folder / "q.jsonl").write_bytes(
        f"{json.dumps(GOOD)}{end}{end}{json.dumps(GOOD)}{end}".encode()
    )
    assert len(read_jsonl(folder / "q.jsonl")) == 2


def test_several_answers_count_in_a_sample() -> None:
    one = Question(None, "red", others=("blue", "Blue"))
    assert one.matched("blue.") == "blue"
    assert one.matched("green") == "red"
