"""Prompts with as many placeholders as a plan leaves; imported when an engine runs a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.multimodal.processing import PromptReplacement, PromptUpdateDetails

from tokenprune.errors import BudgetError
from tokenprune_adapters.vllm.runs import Runs, runs_of


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
        run = [placeholder] * _left([dense], left)
        shorter = [*ids[:first], *run, *ids[first + dense :]]
        return PromptUpdateDetails.select_token_id(shorter, placeholder)

    return PromptReplacement(modality=whole.modality, target=whole.target, replacement=replacement)


def filled(whole: Any, placeholder: int, left: Callable[[Runs], int]) -> Any:
    """The same where text stands between the placeholders: all of a picture is to be filled.

    Which placeholders are left isn't known before the tower has run, nor where the text between
    them will stand, so features bring its embeddings. Its ids stand behind the placeholders.
    """

    def replacement(item: int) -> Any:
        ids = list(whole.replacement(item).full)
        run = [placeholder] * _left(runs_of(ids, placeholder), left)
        return PromptUpdateDetails.from_seq([*run, *(one for one in ids if one != placeholder)])

    return PromptReplacement(modality=whole.modality, target=whole.target, replacement=replacement)


def _left(runs: Runs, left: Callable[[Runs], int]) -> int:
    try:
        return left(runs)
    except BudgetError as error:  # the server answers the request with it
        raise ValueError(str(error)) from error
