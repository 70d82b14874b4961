"""Demands on the adapter of a multimodal LLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.attach import attach_stages
from tokenprune.engine.patching import Patches
from tokenprune.testing.keeping import kept_at
from tokenprune.testing.mllm_subject import MllmSubject
from tokenprune.testing.plain.comparing import share
from tokenprune.testing.plain.fate import Fate, fate_of
from tokenprune.testing.plain.features import Features
from tokenprune.testing.plain.footprint import changes, footprint
from tokenprune.testing.plain.hiding import HiddenKeys
from tokenprune.testing.plain.standing import stands_of
from tokenprune.testing.record import DoesNotApplyError
from tokenprune.testing.towers import followed

TOLERANCE = 1e-4
"""Largest difference of logits, as a share of the largest one (ours)."""
NEW_TOKENS = 3


def parts(subject: MllmSubject) -> str:
    """The parts that the spec names are the model's own."""
    spec, own = subject.adapter.spec(), {id(module) for module in subject.model.modules()}
    named = (spec.core, spec.language_model, *spec.layers)
    strange = [type(module).__name__ for module in named if id(module) not in own]
    if strange:
        return f"{strange[0]} is no part of the model"
    return "" if spec.layers else "the LLM has no layers"


def keep_all(subject: MllmSubject) -> str:
    """A plan that keeps all tokens changes no bit, and neither does detaching."""
    plain = [subject.logits(prompt) for prompt in subject.prompts]
    before = footprint(subject.model)
    for places in ([], subject.places):
        plan, stages = kept_at(*places, keep=1.0)
        with attach_stages(subject.model, plan, stages, subject.adapter, checks="always"):
            for number, prompt in enumerate(subject.prompts):
                if not torch.equal(subject.logits(prompt), plain[number]):
                    return f"logits of prompt {number} change under a plan that keeps all"
    left = changes(before, footprint(subject.model))
    if left:
        return f"detaching leaves something: {left[0]}"
    for number, prompt in enumerate(subject.prompts):
        if not torch.equal(subject.logits(prompt), plain[number]):
            return f"logits of prompt {number} changed for good"
    return ""


def placed(subject: MllmSubject) -> str:
    """Every placeholder of a prompt shows a unit of a picture, or is a separator."""
    for prompt in subject.prompts:
        _shortened(subject, prompt)
    return ""


def shortened(subject: MllmSubject) -> str:
    """A shortened prompt equals the whole one in which the removed tokens are hidden as keys."""
    longest = max((subject.ids(prompt).shape[1] for prompt in subject.prompts), default=0)
    if reason := subject.adapter.spec().unhidden(longest):
        raise DoesNotApplyError(reason)
    for number, prompt in enumerate(subject.prompts):
        found, fate = _shortened(subject, prompt)
        if bool(fate.stays.all()):
            return f"nothing was removed from prompt {number}, which should have pictures"
        with Patches() as patches:
            HiddenKeys(subject.adapter, fate).install(patches)
            wanted = subject.logits(prompt)
        stays = fate.stays.to(found.device)
        far = share(found[:, stays], wanted[:, stays])
        if not far <= TOLERANCE:
            return f"logits of prompt {number} differ by {far:.1e} of the largest one"
    return ""


def _shortened(subject: MllmSubject, prompt: Mapping[str, Any]) -> tuple[Tensor, Fate]:
    """Logits of a prompt under a plan that drops half at each place, and what it dropped."""
    plan, stages = kept_at(*subject.places, keep=0.5)
    noted, model = Features(), subject.model
    with (
        attach_stages(model, plan, stages, subject.adapter, checks="always") as handle,
        noted.noted(subject.adapter),
    ):
        found = subject.logits(prompt)
    ids, images = subject.ids(prompt)[0], handle.trace.images
    placeholders = subject.adapter.spec().placeholders
    stands = stands_of(ids, placeholders, subject.shown(images, noted))
    return found, fate_of(len(ids), stands, images, [], -1)


def decoded(subject: MllmSubject) -> str:
    """`generate` gives the prompt first, then the same tokens with a cache and without."""
    model: Any = subject.model
    if not hasattr(model, "generate"):
        raise DoesNotApplyError("the model doesn't generate")
    plan, stages = kept_at(*subject.places, keep=0.5)
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    with attach_stages(model, plan, stages, subject.adapter, checks="always"):
        for number, prompt in enumerate(subject.prompts):
            ids = subject.ids(prompt)
            found, other = (
                model.generate(**prompt, **options, use_cache=cached) for cached in (True, False)
            )
            if not torch.equal(found[:, : ids.shape[1]], ids):
                return f"what is generated doesn't begin with prompt {number}"
            if not torch.equal(found, other):
                return f"the answer to prompt {number} depends on the KV cache"
    return ""


CHECKS: Mapping[str, Callable[[MllmSubject], str]] = {
    "parts": parts,
    "keep all": keep_all,
    "places": placed,
    "tower": followed,
    "shortened": shortened,
    "decoded": decoded,
}
"""Demands by key; the first line of each check's docstring is the demand in words."""
