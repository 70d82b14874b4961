"""VQA accuracy: how many of several people gave the model's answer (Antol et al., VQA, ICCV 2015).

Definition and normalisation are those of https://visualqa.org/evaluation.html: with the answers of
ten people, an answer scores `min(1, people who said it / 3)`, averaged over the ten sets of nine
people. Answers are compared after `normalised`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

from tokenprune.interface.metric import Answered

#: People who have to agree with an answer for it to be right.
AGREE = 3

ARTICLES = frozenset(("a", "an", "the"))

NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}

#: Marks that are taken out or become spaces; apostrophe, colon and period aren't among them.
MARKS = ';/[]"{}()=+\\_-><@`,?!'

#: Contractions whose apostrophes people leave out. "she'll", "we're" and the like aren't among
#: them: without the apostrophe they are other words.
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't
shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


class VqaAccuracy:
    """VQA accuracy, with the right answers of several people.

    Of fewer than four answers no set without one of them can hold three that agree. There they are
    taken as spellings of what is right, and one match is enough (ours).
    """

    name = "vqa_accuracy"

    def score(self, samples: Sequence[Answered]) -> list[float]:
        """See `Metric`."""
        return [vqa_accuracy(one.answer, one.answers or (one.right,)) for one in samples]


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """The score of an answer, from 0 to 1.

    Of `n` people `k` gave it: the sets without one of the `k` hold `k - 1` matches, the other
    `n - k` sets hold `k`.

    Args:
        answer: the model's.
        people: everybody's answer, at least one.
    """
    said = normalised(answer)
    total = len(people)
    matches = sum(said == normalised(one) for one in people)
    if total <= AGREE:
        return float(matches > 0)
    without = matches * min(1.0, (matches - 1) / AGREE) if matches else 0.0
    return (without + (total - matches) * min(1.0, matches / AGREE)) / total


def normalised(answer: str) -> str:
    """An answer as VQA accuracy compares it.

    Lower case, no articles, no periods but in front of a digit, no commas within numbers, number
    words up to ten as digits, apostrophes put into contractions, other marks as spaces (or left
    out where they stand beside a space).
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    words = _without_marks(text).lower().split()
    words = [NUMBERS.get(word, word) for word in words]
    return " ".join(_WRITTEN.get(word, word) for word in words if word not in ARTICLES)


def _without_marks(text: str) -> str:
    found = text
    number = _COMMA_IN_NUMBER.search(text) is not None
    for mark in MARKS:
        beside = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if beside or number else " ")
    return _PERIOD.sub("", found)


def _spellings() -> dict[str, str]:
    """Every contraction by what is left of it where some or all apostrophes are missing."""
    found: dict[str, str] = {}
    for word in CONTRACTIONS.split():
        places = [place for place, letter in enumerate(word) if letter == "'"]
        for count in range(1, len(places) + 1):
            for gone in combinations(places, count):
                short = "".join(one for place, one in enumerate(word) if place not in gone)
                found.setdefault(short, word)
    return found


_WRITTEN = _spellings()
