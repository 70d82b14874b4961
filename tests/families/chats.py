"""Chats of two turns that show pictures, as calls behind a cache and as one prompt."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

import tokenprune
from tests.families.calls import begun, case_of
from tests.families.case import Case
from tests.families.plans import core
from tests.mllm.calls import cache_of, with_cache

STEP = torch.tensor([[77]])
Call = dict[str, Tensor]


def said(name: str) -> bool:
    """Whether an argument has an entry for every token of the prompt."""
    return name in ("input_ids", "attention_mask") or name.endswith("token_type_ids")


def turns(case: Case, scene: str = "one", padding: str = "none") -> tuple[Call, Call]:
    """Two turns, of which the second shows the pictures in negative."""
    first, second = (case.inputs(scene, padding, torch.float64) for _ in range(2))
    return first, {
        name: -value if value.is_floating_point() else value for name, value in second.items()
    }


def behind(first: Call, second: Call) -> Call:
    """The second turn with the mask of the whole chat."""
    mask = torch.cat((first["attention_mask"], second["attention_mask"]), dim=1)
    return {**second, "attention_mask": mask}


def chat(first: Call, second: Call) -> Call:
    """Both turns of one sample in one prompt."""
    joined = {
        name: torch.cat((first[name], second[name]), dim=1 if said(name) else 0)
        if said(name) or first[name].shape[1:] == second[name].shape[1:]
        else first[name]
        for name in first
    }
    return {**second, **joined}


def placed(model: Any, whole: Call, length: int) -> list[dict[str, Tensor]]:
    """Position ids of the chat, of its turns, and of a step behind it, where a core counts rows."""
    count = getattr(core(model), "get_rope_index", None)
    if count is None:
        return [{}] * 4
    taken = inspect.signature(count).parameters
    found = count(**{name: value for name, value in whole.items() if name in taken})[0]
    last = torch.full_like(found[..., :1], int(found.max()) + 1)
    parts = found, found[..., :length], found[..., length:], last
    return [{"position_ids": part} for part in parts]


def step(whole: Call) -> Call:
    """A token of text behind the chat."""
    mask = torch.nn.functional.pad(whole["attention_mask"], (0, 1), value=1)
    return {"input_ids": STEP.expand(len(mask), -1), "attention_mask": mask}


def answered(model: Any, whole: Call, where: dict[str, Tensor], last: dict[str, Tensor]) -> Tensor:
    """Logits of the whole chat, and of a step behind it."""
    out = model(**whole, **where, **begun(model), use_cache=True)
    more = model(**step(whole), **last, **with_cache(model, cache_of(out)))
    return torch.cat((out.logits, more.logits), dim=1)


def taken_in_turns(model: Any, calls: list[Call], whole: Call) -> Tensor:
    """The same, turn by turn."""
    given: dict[str, Any] = {}
    found = []
    for call in (*calls, step(whole)):
        out = model(**call, **given, use_cache=True)
        given = with_cache(model, cache_of(out))
        found.append(out.logits)
    return torch.cat(found, dim=1)


def assert_as_alone(name: str, padding: str, stages: Any, *, atol: float) -> None:
    """Whether a batch of chats of two turns gives what each chat gives alone.

    Args:
        name: of the family.
        padding: side of the padding, in both turns.
        stages: the plan.
        atol: what rounding may do.
    """
    case = case_of(name, "several")
    model, (first, second) = case.create(torch.float64), turns(case, "several", padding)
    later, own = behind(first, second), case.alone("several", padding, torch.float64)
    mask, length = later["attention_mask"], first["input_ids"].shape[1]
    where = mask.cumsum(dim=1) - 1
    with tokenprune.attach(model, stages):
        out = model(**first, position_ids=where[:, :length].clamp(min=0))
        given = with_cache(model, cache_of(out))
        found = model(**later, position_ids=where[:, length:], **given).logits
        for row, alone in enumerate(own):
            negated = {k: -v if v.is_floating_point() else v for k, v in alone.items()}
            calls = [alone, behind(alone, negated)]
            wanted = taken_in_turns(model, calls, calls[1])[0, alone["input_ids"].shape[1] : -1]
            got = found[row][second["attention_mask"][row].bool()]
            torch.testing.assert_close(got, wanted, rtol=0, atol=atol)
