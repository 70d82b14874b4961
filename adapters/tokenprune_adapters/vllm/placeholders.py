"""Prompts with as many placeholders as a plan leaves; imported when an engine runs a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails

from tokenprune.errors import BudgetError
from tokenprune_adapters.vllm.runs import Runs, runs_of, within

Shown = TypeVar("Shown")


def shortened(whole: Any, placeholder: int, left: Callable[[Runs], int]) -> Any:
    """The replacement for a picture that vLLM has, with fewer placeholders in their one run.

    Args:
        whole: a `PromptReplacement` that gives the ids of a picture by its number in the prompt.
        placeholder: id of what stands for a visual token.
        left: tokens that are left of a picture.
    """

    def replacement(item: int) -> Any:
        ids = list(whole.replacement(item).full)
        (dense,), first = runs_of(ids, placeholder), ids.index(placeholder)
        run = [placeholder] * reserved([dense], left)
        shorter = [*ids[:first], *run, *ids[first + dense :]]
        return PromptUpdateDetails.select_token_id(shorter, placeholder)

    return PromptReplacement(modality=whole.modality, target=whole.target, replacement=replacement)


def filled(whole: Any, placeholder: int, left: Callable[[Runs], int]) -> Any:
    """The same where text stands between the placeholders, which is to be filled, too.

    Args:
        whole: as of `shortened`.
        placeholder: the same.
        left: the same.
    """

    def replacement(item: int) -> Any:
        ids = list(whole.replacement(item).full)
        return between(ids, placeholder, reserved(runs_of(ids, placeholder), left))

    return PromptReplacement(modality=whole.modality, target=whole.target, replacement=replacement)


def between(ids: Sequence[int], placeholder: int, left: int) -> Any:
    """What stands for a picture with text between its placeholders.

    Which placeholders are left isn't known before the tower has run, nor where the text between
    them will stand, so features bring its embeddings. Its ids stand behind the placeholders.

    Args:
        ids: without a plan.
        placeholder: id of what stands for a visual token.
        left: tokens that are left.
    """
    inner = within(ids, placeholder)
    text = [one for one in ids[inner] if one != placeholder]
    return embedded(ids[: inner.start], [*[placeholder] * left, *text], ids[inner.stop :])


def embedded(front: Sequence[int], inner: Sequence[int], behind: Sequence[int]) -> Any:
    """Ids of which those in the middle are to be filled."""
    mask = torch.zeros(len(front) + len(inner) + len(behind), dtype=torch.bool)
    mask[len(front) : len(front) + len(inner)] = True
    return PromptUpdateDetails(full=[*front, *inner, *behind], is_embed=lambda _: mask)


def reserved(shown: Shown, left: Callable[[Shown], int]) -> int:
    """Tokens that are left of a picture.

    Args:
        shown: what they are counted by.
        left: counts them.

    Raises:
        ValueError: a budget asks for more tokens than the picture has.
    """
    try:
        return left(shown)
    except BudgetError as error:  # the server answers the request with it
        raise ValueError(str(error)) from error
