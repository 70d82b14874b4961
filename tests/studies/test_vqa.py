"""VQA accuracy against the plain definition, worked out by hand for forty answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.interface.metric import Answered
from tokenprune.lab.measure.metrics import chosen_metrics
from tokenprune.lab.measure.vqa import normalised, vqa_accuracy


def people(**counts: int) -> list[str]:
    """Answers of ten people; `_` stands for a space."""
    found = [word.replace("_", " ") for word, count in counts.items() for _ in range(count)]
    return found + [f"other {number}" for number in range(10 - len(found))]


TEN = people(yes=10)

#: An answer, what ten people said, and the mean over the ten sets of nine of min(1, matches / 3).
TABLE: list[tuple[str, list[str], float]] = [
    ("yes", TEN, 1.0),
    ("no", TEN, 0.0),
    ("", TEN, 0.0),
    ("red", people(red=1), 0.3),  # nine sets with 1/3, one with 0
    ("red", people(red=2), 0.6),  # eight with 2/3, two with 1/3
    ("red", people(red=3), 0.9),  # seven with 1, three with 2/3
    ("red", people(red=4), 1.0),  # six with 1, four with 3/3
    ("red", people(red=9), 1.0),
    ("blue", people(red=5, blue=5), 1.0),
    ("blue", people(red=8, blue=2), 0.6),
    ("Red", people(red=4), 1.0),
    ("RED.", people(red=4), 1.0),
    (" red ", people(red=4), 1.0),
    ("red\n", people(red=4), 1.0),
    ("red!", people(red=4), 1.0),
    ("red?", people(red=3), 0.9),
    ("the red", people(red=4), 1.0),
    ("a red car", people(red_car=4), 1.0),
    ("an apple", people(apple=2), 0.6),
    ("a", people(a=4), 1.0),  # both become empty
    ("two", [*people(two=2)[:2], *["2"] * 2, *people()[:6]], 1.0),
    ("2", people(two=3), 0.9),
    ("ten", people(**{"10": 4}), 1.0),
    ("eleven", people(**{"11": 4}), 0.0),
    ("none", people(**{"0": 4}), 1.0),
    ("zero", people(none=1), 0.3),
    ("dont", ["don't"] * 10, 1.0),
    ("couldnt've", ["couldn't've"] * 4 + people()[:6], 1.0),
    ("shell", ["she'll"] * 10, 0.0),
    ("t-shirt", ["t shirt"] * 10, 1.0),
    ("red, white", ["red white"] * 10, 1.0),
    ("red,white", ["red white"] * 10, 1.0),
    ("1,000", ["1000"] * 10, 1.0),
    ("1,000", ["1 000"] * 10, 0.0),
    ("3.5", ["3.5"] * 10, 1.0),
    ("3.5", ["35"] * 10, 0.0),
    ("5 p.m.", ["5 pm"] * 10, 1.0),
    ("10:30", ["10:30"] * 10, 1.0),
    ("john's", ["johns"] * 10, 0.0),
    ("yes", ["yes"] * 3 + ["Yes."] * 2 + ["no"] * 5, 1.0),
]


@pytest.mark.parametrize(("answer", "said", "score"), TABLE)
def test_the_table(answer: str, said: list[str], score: float) -> None:
    assert len(said) == 10
    assert vqa_accuracy(answer, said) == pytest.approx(score)


def test_the_table_has_forty_answers() -> None:
    assert len(TABLE) == 40


def leave_one_out(answer: str, said: list[str]) -> float:
    total = 0.0
    for left_out in range(len(said)):
        matches = 0
        for person, other in enumerate(said):
            if person != left_out and normalised(other) == normalised(answer):
                matches += 1
        total += min(1.0, matches / 3)
    return total / len(said)


@given(st.lists(st.sampled_from(["a cat", "cat", "Cat.", "dog", "two dogs"]), min_size=4))
def test_it_is_the_mean_over_the_sets_without_one_person(said: list[str]) -> None:
    assert vqa_accuracy("cat", said) == pytest.approx(leave_one_out("cat", said))


@pytest.mark.parametrize(("answer", "score"), [("grey", 1.0), ("Gray.", 1.0), ("black", 0.0)])
def test_of_few_answers_one_match_is_enough(answer: str, score: float) -> None:
    assert vqa_accuracy(answer, ["gray", "grey"]) == score
    (_, metric) = chosen_metrics(["vqa_accuracy"])
    assert metric.score([Answered("q", "gray", answer, ("gray", "grey"))]) == [score]
    assert metric.score([Answered("q", "grey", "grey")]) == [1.0]


@given(st.text())
def test_normalising_any_text_ends(text: str) -> None:
    assert normalised(text) == " ".join(normalised(text).split(" "))


@pytest.mark.parametrize(
    ("answer", "right", "score"),
    [
        ("5", ".5", 0.0),
        (".5", ".5", 1.0),
        ("cat .", "cat", 1.0),
        ("", "!", 0.0),
        (" !", "!", 1.0),
        ("cafe\u0301", "caf\u00e9", 1.0),
        (" Cat!\n", "cat", 1.0),
        ("yes, .", "Yes", 1.0),
        ("no", "yes", 0.0),
    ],
)
def test_accuracy_leaves_out_closing_marks_alone(answer: str, right: str, score: float) -> None:
    (metric,) = chosen_metrics([])
    assert metric.score([Answered("how much ?", right, answer, (right,))]) == [score]
