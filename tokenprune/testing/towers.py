"""A demand on adapters of multimodal LLMs that name a tower: where its units end up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine.attach import attach_stages
from tokenprune.engine.llm.units import Located
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.sites import Stage
from tokenprune.interface.trace import ImageTrace
from tokenprune.testing.keeping import kept_at
from tokenprune.testing.mllm_subject import MllmSubject
from tokenprune.testing.plain.comparing import share
from tokenprune.testing.plain.features import Features
from tokenprune.testing.plain.standing import Shown
from tokenprune.testing.record import DoesNotApplyError

TOLERANCE = 1e-4
"""Largest difference of features, as a share of the largest one (ours)."""


def followed(subject: MllmSubject) -> str:
    """Units that a tower's last block leaves have the features of the full tower.

    Behind the attention of that block nothing mixes units any more, so those that leave there
    change none of the others, if members, projector and places are what the adapter says.
    """
    spec = subject.adapter.spec()
    towers = {kind: one.tower for kind, one in spec.modalities.items() if one.tower is not None}
    layers = {kind: one.used - 1 for kind, one in towers.items() if one.blended is None}
    if not layers:
        raise DoesNotApplyError("the adapter names no tower whose units can be told apart")
    layer = next(iter(layers.values()))
    kinds = [kind for kind, own in layers.items() if own == layer]
    for number, prompt in enumerate(subject.prompts):
        dense, _, _ = _features(subject, prompt, [])
        found, shown, images = _features(subject, prompt, [("encoder", layer)])
        if not any(kind in kinds for kind, _ in shown):
            continue
        rows = _left(shown, images, kinds, len(found))
        if len(rows) == sum(places.units for kind, places in shown if kind in kinds):
            return f"nothing was removed from the pictures of prompt {number}"
        if len(found) != len(dense):
            return f"{len(found)} features of prompt {number}, and {len(dense)} without a plan"
        far = share(found[rows], dense[rows])
        if not far <= TOLERANCE:
            return f"features of units of prompt {number} differ by {far:.1e} of the largest one"
    return ""


def _features(
    subject: MllmSubject, prompt: Mapping[str, Any], places: Sequence[tuple[Stage, int | None]]
) -> tuple[Tensor, Sequence[Shown], Sequence[ImageTrace]]:
    """All features `[M, d_llm]` of a prompt's pictures, where they stand, and what was left."""
    plan, stages = kept_at(*places, keep=0.5)
    noted, adapter = Features(), subject.adapter
    try:
        with (
            attach_stages(subject.model, plan, stages, adapter, checks="always") as handle,
            noted.noted(adapter),
        ):
            subject.logits(prompt)
    except UnsupportedCallError as refused:
        raise DoesNotApplyError(f"these pictures are refused: {refused.message}") from refused
    made = [adapter.features(one) for one in noted.made]
    return torch.cat(made) if made else torch.zeros(0, 0), noted.shown, handle.trace.images


def _left(
    shown: Sequence[Shown], images: Sequence[ImageTrace], kinds: Sequence[str], total: int
) -> Tensor:
    """Rows of the features that show units which are left, of some kinds of picture."""
    every = [places for _, places in shown]
    bare = sum(places.count for places in every) != total
    located = Located.of(every, bare=bare, device=torch.device("cpu"))
    found = [
        located.find(image.steps[-1].anchor, [number], [len(image.steps[-1].anchor)])
        for number, ((kind, _), image) in enumerate(zip(shown, images, strict=True))
        if kind in kinds
    ]
    return torch.cat(found)
