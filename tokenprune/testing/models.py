"""Demands on a strategy inside tiny models, where a model library is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tokenprune.engine import attach
from tokenprune.errors import PlanError, SignalError, UnsupportedModelError
from tokenprune.interface.placement import Decoder, Encoder
from tokenprune.interface.strategy import PruningStrategy, placement
from tokenprune.plugins.hookspecs import hookimpl
from tokenprune.plugins.host import host, register_plugin
from tokenprune.testing.kinds import TinyModel, tiny_models
from tokenprune.testing.record import DoesNotApplyError
from tokenprune.testing.subject import KEEP, MODEL, Subject

TEXTS = (3, 6)
"""Text tokens of the prompts; the shorter one is padded."""
NEW_TOKENS = 3


def padding(subject: Subject) -> str:
    """In a model, prompts in a padded batch get the logits that each gets alone."""
    for tiny, model in _attached(subject):
        together = _last(model, tiny.inputs(MODEL, TEXTS))
        if not together.isfinite().all():
            return f"the logits of {tiny.name} hold NaN or infinity"
        for row, length in enumerate(TEXTS):
            alone = _last(model, tiny.inputs(MODEL, [length]))[0]
            if not torch.allclose(together[row], alone, rtol=1e-3, atol=1e-4):
                far = float((together[row] - alone).abs().max())
                return f"the logits of prompt {row} differ by {far:.1e} in {tiny.name}"
    return ""


def beams(subject: Subject) -> str:
    """In a model, greedy decoding and beams hand back the prompt, with a KV cache or without."""
    for tiny, model in _attached(subject):
        inputs = tiny.inputs(MODEL, TEXTS)
        prompt = inputs["input_ids"]
        made = {
            mode: model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **options)
            for mode, options in (
                ("greedy", {}),
                ("beams", {"num_beams": 2}),
                ("no cache", {"use_cache": False}),
            )
        }
        for mode, tokens in made.items():
            if not torch.equal(tokens[:, : prompt.shape[1]], prompt):
                return f"{mode}: what is generated doesn't begin with the prompt in {tiny.name}"
        if not torch.equal(made["greedy"], made["no cache"]):
            return f"the answer depends on the KV cache in {tiny.name}"
    return ""


def _last(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs).logits[:, -1]
    return logits


def _attached(subject: Subject) -> Iterator[tuple[TinyModel, Any]]:
    """Every tiny model with the strategy attached.

    Raises:
        DoesNotApplyError: there is no model, or the plan is refused by one.
    """
    models = tiny_models()
    if not models:
        raise DoesNotApplyError("no model library is installed, such as transformers")
    for tiny in models:
        with _registered(subject), torch.inference_mode():
            model = tiny.build(MODEL)
            try:
                attachment = attach(model, _plan(subject), checks="always")
            except (PlanError, SignalError, UnsupportedModelError) as error:
                raise DoesNotApplyError(f"{tiny.name} refuses it: {error.message}") from error
            with attachment:
                yield tiny, model


def _registered(subject: Subject) -> contextlib.AbstractContextManager[object]:
    """Plans name strategies, so one that isn't installed is registered for a while."""
    if host().strategies.get(subject.kind.name) is subject.kind:
        return contextlib.nullcontext()
    return register_plugin(_Plugin(subject.kind), f"checked-{subject.kind.name}")


class _Plugin:
    """A plugin that brings one strategy."""

    def __init__(self, kind: type[PruningStrategy[Any]]) -> None:
        self.kind = kind

    @hookimpl
    def register_strategies(self, register: Callable[[type[PruningStrategy[Any]]], None]) -> None:
        """Register it."""
        register(self.kind)


def _plan(subject: Subject) -> dict[str, Any]:
    """One stage, at the layer where the strategy is checked."""
    stage: dict[str, Any] = {
        "at": subject.at,
        "strategy": subject.kind.name,
        "params": subject.made | subject.given,
    }
    if subject.strategy.length != "own":
        stage["keep"] = KEEP
    own = placement(subject.strategy, subject.at)
    one_block = isinstance(own, Encoder) and own.default_schedule is None
    if one_block or (isinstance(own, Decoder) and not own.every_layer):
        stage["layer"] = subject.site.layer
    return {"schema_version": 1, "stages": [stage]}
