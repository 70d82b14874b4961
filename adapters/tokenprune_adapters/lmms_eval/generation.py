"""Requests of lmms-eval in batches of equal generation arguments, and what these mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: Of lmms-eval's models for LLaVA; ours would be as arbitrary.
NEW_TOKENS = 1024

SAMPLING = ("temperature", "top_p", "top_k")
PASSED = ("num_beams", "repetition_penalty", "length_penalty", "min_new_tokens")

#: lmms-eval adds it to tasks that name no stop text, where it would cut lists and reasoning.
DEFAULT_STOP = "\n\n"


def batches(
    arguments: Sequence[Mapping[str, Any]], size: int
) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    """Places of requests, grouped by equal generation arguments, in batches.

    Args:
        arguments: the generation arguments of every request.
        size: requests a batch.

    Yields:
        The arguments of a batch, and the places of its requests.
    """
    groups: dict[str, list[int]] = {}
    for place, given in enumerate(arguments):
        groups.setdefault(repr(sorted(given.items())), []).append(place)
    for places in groups.values():
        for at in range(0, len(places), size):
            yield arguments[places[at]], places[at : at + size]


def generate_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `generate`: greedy unless a temperature above 0 is given."""
    options: dict[str, Any] = {"max_new_tokens": int(given.get("max_new_tokens") or NEW_TOKENS)}
    options |= {name: given[name] for name in PASSED if given.get(name) is not None}
    temperature = given.get("temperature")
    drawn = bool(given.get("do_sample")) if temperature is None else float(temperature) > 0
    if drawn:
        options |= {name: given[name] for name in SAMPLING if given.get(name) is not None}
    return {**options, "do_sample": drawn}


def cut(answer: str, given: Mapping[str, Any]) -> str:
    """The answer up to the first stop text of the task."""
    until = given.get("until") or ()
    for stop in (until,) if isinstance(until, str) else until:
        if stop and stop != DEFAULT_STOP:
            answer = answer.split(stop)[0]
    return answer.strip()
