"""What the answers of a zero-shot task are chosen from: classes in prompts, or captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedDual
from tokenprune.lab.data.rows import read_lines

#: CLIP's default template (arXiv 2103.00020, section 3.1.4).
PROMPTS = ("a photo of a {}.",)

#: Where a template takes the name.
PLACE = "{}"


@dataclass(frozen=True)
class Candidates:
    """Possible answers, each with the texts that stand for it.

    Attributes:
        answers: what each is called in records: the number of a class, or a caption.
        texts: of each, one or more texts.
    """

    answers: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    @classmethod
    def of_classes(cls, names: Sequence[str], prompts: Sequence[str] = PROMPTS) -> Candidates:
        """Every class in every template.

        Args:
            names: in the order of the class numbers.
            prompts: templates with `{}`.
        """
        texts = tuple(tuple(prompt.replace(PLACE, name) for prompt in prompts) for name in names)
        return cls(tuple(str(number) for number in range(len(names))), texts)

    @classmethod
    def of_captions(cls, captions: Sequence[str]) -> Candidates:
        """Every distinct caption, in the order in which they come first."""
        distinct = tuple(dict.fromkeys(captions))
        return cls(distinct, tuple((caption,) for caption in distinct))


_KNOWN: WeakKeyDictionary[nn.Module, dict[Candidates, Tensor]] = WeakKeyDictionary()


def embedded(loaded: LoadedDual, candidates: Candidates) -> Tensor:
    """Unit-length embeddings `[C, D]`, computed once a process for every model.

    Several texts of a candidate are averaged as unit-length embeddings (CLIP, arXiv 2103.00020,
    section 3.1.4).

    Args:
        loaded: the model.
        candidates: the answers.
    """
    mine = _KNOWN.setdefault(loaded.model, {})
    if candidates not in mine:
        mine[candidates] = _means(loaded, candidates)
    return mine[candidates]


def _means(loaded: LoadedDual, candidates: Candidates) -> Tensor:
    flat = [text for texts in candidates.texts for text in texts]
    rows = {text: number for number, text in enumerate(dict.fromkeys(flat))}
    vectors = loaded.texts(list(rows))
    means = [vectors[[rows[text] for text in texts]].mean(dim=0) for texts in candidates.texts]
    return normalize(torch.stack(means), dim=-1)


def read_classes(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line, in the order of the class numbers.

    Raises:
        DataError: the file can't be read, is empty, has an empty line, after which every number
            would be off by one, or has a name twice.
    """
    names = tuple(line.strip() for line in read_lines(path, "class names"))
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(
                "the line is empty.",
                where=f"{path}:{number}",
                remedy="Write one name a line; the first is that of class 0.",
            )
    if not names:
        raise DataError("the file holds no class names.", where=str(path))
    check_names(names, str(path))
    return names


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse two classes of one name: their texts are equal, so the later one is never nearest.

    Args:
        names: in the order of the class numbers.
        where: what errors name.

    Raises:
        DataError: naming both numbers.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(names):
        before = numbers.setdefault(name, number)
        if before != number:
            raise DataError(
                f"the classes {before} and {number} are both called '{name}', so the second could "
                "never be right.",
                where=where,
                remedy="Tell them apart, as in 'crane (bird)' and 'crane (machine)'.",
            )


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse templates without a place for the name.

    Raises:
        DataError: naming the template.
    """
    for prompt in prompts:
        if PLACE not in prompt:
            raise DataError(
                f"the prompt '{prompt}' has no place for the name.",
                where="--prompt",
                remedy="Write {} where it stands, as in: a photo of a {}.",
            )
