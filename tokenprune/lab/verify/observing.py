"""Run one sample through a model that carries a plan, and note everything there is to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tokenprune.engine.attach import attach_stages
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.stages import built
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.places import Places
from tokenprune.interface.trace import ImageTrace, Trace
from tokenprune.lab.verify import names
from tokenprune.lab.verify.subject import VerifiedModel
from tokenprune.plan import Plan
from tokenprune.testing.plain.features import Features
from tokenprune.testing.plain.names import states_of
from tokenprune.testing.plain.standing import Shown
from tokenprune.testing.plain.taps import Answer, Taps


@dataclass(frozen=True)
class SeenCall:
    """One call of a model that carries a plan, on one sample.

    Attributes:
        inputs: what it was called with.
        output: logits or embeddings, see `Subject.call`; of `generate` the tokens.
        steps: logits `[1, V]` of every step of `generate`.
        trace: what was kept.
        images: the same, image by image.
        answers: what the strategies answered.
        features: what the projector, or the core's own method, put out, call by call.
        shown: the pictures, and where their tokens stand in the prompt.
        states: what the encoder's last used block put out.
        lengths: tokens that every block and every layer put out in its last call; a strategy
            that chooses by the question has the LLM run on it before.
        average: visual tokens per image over the LLM's layers, as reported.
    """

    inputs: Any
    output: Tensor
    steps: Sequence[Tensor]
    trace: Trace
    images: Sequence[ImageTrace]
    answers: Sequence[Answer]
    features: Sequence[Any]
    shown: Sequence[Shown]
    states: Tensor | None
    lengths: dict[tuple[str, int], int]
    average: float | None


@dataclass
class Probes:
    """Forward hooks that note what passes; they are put on a model and taken off again."""

    features: Features = field(default_factory=Features)
    states: list[Tensor] = field(default_factory=list)
    lengths: dict[tuple[str, int], int] = field(default_factory=dict)

    @contextmanager
    def on(self, subject: VerifiedModel) -> Iterator[None]:
        """Note what makes features, and what blocks and layers put out."""
        adapter = subject.adapter
        with ExitStack() as stack:
            for number, block in enumerate(subject.blocks):
                stack.enter_context(_hooked(block, self._length("encoder", number)))
            for block in subject.blocks[-1:]:
                stack.enter_context(_hooked(block, self.states.append))
            if isinstance(adapter, MllmAdapter):
                stack.enter_context(self.features.noted(adapter))
                for number, layer in enumerate(adapter.spec().layers):
                    stack.enter_context(_hooked(layer, self._length("decoder", number, adapter)))
            yield

    def _length(self, part: str, number: int, adapter: MllmAdapter | None = None) -> Any:
        def note(states: Tensor) -> None:
            length = states.shape[-2] if adapter is None else adapter.layer_states(states).shape[1]
            self.lengths[part, number] = length

        return note


class Observer:
    """A plan attached to the subject, with taps on its strategies.

    Args:
        subject: the model with its samples.
        plan: the plan.
    """

    def __init__(self, subject: VerifiedModel, plan: Plan) -> None:
        self.subject, self.plan, self.taps = subject, plan, Taps()

    @contextmanager
    def attached(self) -> Iterator[Attachment]:
        """Put the plan in force until the block ends.

        Raises:
            TokenpruneError: see `tokenprune.attach`.
        """
        stages = built(self.plan)
        subject = self.subject
        with self.taps.on(stages):
            attachment = attach_stages(
                subject.model, self.plan, stages, subject.adapter, checks="always"
            )
            with attachment:
                yield attachment

    def forward(self, handle: Attachment, inputs: Any) -> SeenCall:
        """One forward."""
        return self._run(handle, inputs, generates=False)

    def generate(self, handle: Attachment, inputs: Any) -> SeenCall:
        """One greedy generation."""
        return self._run(handle, inputs, generates=True)

    def _run(self, handle: Attachment, inputs: Any, *, generates: bool) -> SeenCall:
        subject, probes = self.subject, Probes()
        self.taps.answers.clear()
        handle.meter.reset()
        with probes.on(subject):
            output, steps = subject.generate(inputs) if generates else (subject.call(inputs), [])
        trace = handle.trace
        images, class_tokens = trace.images, dict.fromkeys(range(subject.prefix))
        shown = probes.features.shown or [
            ("image", Places(image.grid, class_tokens)) for image in images
        ]
        if self.plan.separators == "keep":
            shown = [(kind, places.fixed()) for kind, places in shown]
        return SeenCall(
            inputs,
            output,
            steps,
            trace,
            images,
            tuple(self.taps.answers),
            probes.features.made,
            shown,
            probes.states[0] if probes.states else None,
            probes.lengths,
            handle.meter.tokens.get("llm_average"),
        )


def _hooked(module: nn.Module, note: Callable[[Tensor], None]) -> RemovableHandle:
    return module.register_forward_hook(lambda _, __, output: note(states_of(output).detach()))


def unpadded(inputs: Any, row: int) -> Tensor:
    """`[T]` True for the tokens of a row of a batch that aren't padding."""
    mask = inputs.get(names.PADDING)
    if mask is None:
        return torch.ones_like(inputs[names.PROMPT][row], dtype=torch.bool)
    found: Tensor = mask[row].bool()
    return found
