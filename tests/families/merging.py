"""Merges of a cell, carried out by loops: in the plain tower, before the LLM and inside of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.adapters.packed_oracle import How, Loop, taken
from tests.families.any_size import by_picture, passes, tower_of
from tests.families.calls import language
from tests.families.case import Case
from tests.families.cells import (
    ANY_SIZE,
    GRIDS,
    PACKED,
    Pruned,
    class_tokens,
    family,
    packed_tower,
)
from tests.families.fate import shown
from tests.families.masked import STREAMED
from tests.families.plans import LAYER, layers, plan
from tests.families.towers import Pair, paired_in
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.interface.trace import ImageTrace, Trace

PIXELS = ("pixel_values", "pixel_values_videos")
"""What comes with each of `GRIDS`."""

BY_LAYER = ("granite4_vision",)
"""Families whose pictures enter their LLM in front of its layers."""

Groups = list[tuple[int, int, list[int]]]
"""Row, the place whose token is left, and the places of all that were merged into it."""


class Neighbours(PruningStrategy[StrategyParams]):
    """Merge tokens into the next one of the same picture or frame, from the first on, equally."""

    name = "t-neighbours"
    stages = (PreLlm(projected=True), Decoder())

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        rows = []
        for frames in tokens.position[..., 0].tolist():
            found, at = list[int](), 0
            while at + 1 < tokens.count and len(found) < budget.remove:
                alike = frames[at] == frames[at + 1]
                found += [at] if alike else []
                at += 2 if alike else 1
            rows.append(found)
        source = torch.tensor(rows, dtype=torch.int64)
        return Reduction.merge(source, source + 1, torch.ones_like(tokens.size))


PLUGIN = registering(Neighbours)


def content(case: Case, stages: str, keep: float) -> dict[str, Any]:
    """The plan of a cell: merges, in one place or in several."""
    packed, layer = family(case) in PACKED, LAYER.get(case.name, 2)
    parts = {
        "encoder": {"strategy": "tome" if packed else "t-tower-pair", "at": "encoder"},
        "pre_llm": {"strategy": "t-neighbours", "at": "pre_llm"},
        "decoder": {"strategy": "t-neighbours", "at": "decoder", "layer": layer},
    }
    chosen = {"late": ("pre_llm", "decoder"), "all": tuple(parts)}.get(stages, (stages,))
    return plan(*({**parts[name], "keep": keep} for name in chosen))


def groups(one: Pruned, step: int) -> Groups:
    """What one of the trace's steps merged."""
    found: Groups = []
    for kind in shown(one.case, one.trace, one.call["input_ids"], one.prompts):
        for image, mine in zip(kind.images, kind.units, strict=True):
            for anchor, patches in _merged(image, step % len(image.steps)).items():
                row, place = kind.places[mine[anchor]]
                found.append((row, place, [kind.places[mine[patch]][1] for patch in patches]))
    return found


def _merged(image: ImageTrace, step: int) -> dict[int, list[int]]:
    """By the patch whose place a token holds, those that the tokens in it held before."""
    before = image.steps[step - 1].anchor.tolist() if step else list(range(image.patches))
    now, found = image.steps[step], dict[int, list[int]]()
    for patch in before:
        found.setdefault(int(now.anchor[now.assignment[patch]]), []).append(patch)
    return found


def moved(wanted: Groups, kept: list[int]) -> Groups:
    """The groups of a prompt of which only some places are left."""
    return [(0, kept.index(place), [kept.index(one) for one in all_]) for _, place, all_ in wanted]


@contextmanager
def merged_at(module: nn.Module, name: str, wanted: Groups) -> Iterator[None]:
    """Let tokens be means when a module is first called: what is left of a group is its mean.

    Args:
        module: the LLM or a layer of it.
        name: what its states `[..., B, T, D]` are called, where they come by name.
        wanted: the groups.
    """
    waiting = [wanted]

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not waiting:
            return None
        old = whole = kwargs[name] if name in kwargs else args[0]
        if type(module).__name__.startswith(STREAMED):  # streams of a token stand behind it
            old = old.flatten(2)
        new = old.clone()
        for row, place, places in waiting.pop():
            new[..., row, place, :] = sum(old[..., row, one, :] for one in places) / len(places)
        new = new.view(whole.shape)
        if name in kwargs:
            return args, {**kwargs, name: new}
        return (new, *args[1:]), kwargs

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def merged_by_layer(language: nn.Module, wanted: Groups) -> Iterator[None]:
    """The same of what an LLM adds in front of its layers, by layer `[n, D]` for marked tokens.

    Args:
        language: the LLM.
        wanted: the groups.
    """
    waiting = [wanted]

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not waiting:
            return None
        marks, now = kwargs["vision_mask"].squeeze(-1), waiting.pop()
        number = (marks.flatten().cumsum(0) - 1).view(marks.shape).tolist()
        changed = {}
        for layer, old in kwargs["deepstack_features"].items():
            changed[layer] = old.clone()
            for row, place, places in now:
                members = [old[number[row][one]] for one in places]
                changed[layer][number[row][place]] = sum(members) / len(places)
        return args, {**kwargs, "deepstack_features": changed}

    handle = language.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def merged_in(one: Pruned, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plain model with all merges of a plan in its tower, in front of the LLM and in it."""
    behind = {"pre_llm": {"pre_llm": -1}, "decoder": {"decoder": -1}, "encoder": {}}
    steps = behind.get(one.stages, {"pre_llm": -2, "decoder": -1})
    layer = layers(one.model)[LAYER.get(one.case.name, 2)]
    with ExitStack() as stack:
        if one.inside:
            stack.enter_context(tower_merging(one, patch))
        if "pre_llm" in steps:
            early = groups(one, steps["pre_llm"])
            stack.enter_context(merged_at(language(one.model), "inputs_embeds", early))
            if family(one.case) in BY_LAYER:
                stack.enter_context(merged_by_layer(language(one.model), early))
        if "decoder" in steps:
            late = groups(one, steps["decoder"])
            stack.enter_context(merged_at(layer, "hidden_states", late))
        yield


@contextmanager
def tower_merging(one: Pruned, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plain model, whose tower merges by loops what the trace says."""
    case, model = one.case, one.model
    with ExitStack() as stack:
        if family(case) in PACKED:
            patched = stack.enter_context(patch.context())
            looped(packed_tower(model), one.call, one.trace, How(biased=True), patched)
        elif family(case) in ANY_SIZE:
            seen = passes(case, one.prompts, one.trace)
            stack.enter_context(by_picture(tower_of(model), seen))
        else:
            stack.enter_context(paired_in(model, Pair.made, class_tokens(case)))
        yield


def looped(
    tower: Any, call: dict[str, Tensor], trace: Trace, how: How, patch: pytest.MonkeyPatch
) -> None:
    """Let a packed tower give what loops over units make of a call, pass by pass."""
    outputs, first = list[Any](), 0
    for pixels, grids in zip(PIXELS, GRIDS, strict=True):
        if grids not in call:
            continue
        rows = {"hidden_states": call[pixels], "grid_thw": call[grids]}
        levels = Loop(tower, rows, trace, how, first).run()
        with torch.no_grad():
            made = tower(**taken(tower, rows))
        made.pooler_output = levels[0]
        if len(levels) > 1:
            made.deepstack_features = levels[1:]
        outputs.append(made)
        first += len(call[grids])
    # `setattr` would leave a forward on the tower, which tests share
    patch.setitem(vars(tower), "forward", _in_turn(outputs))


def _in_turn(outputs: Sequence[Any]) -> Callable[..., Any]:
    calls = 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return replace(outputs[(calls - 1) % len(outputs)])

    return forward
