"""The frozen model as a training loss sees it, on top of what attaching does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.engine.adapters import choose_encoder
from tokenprune.engine.attach import attach_stages
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.llm.stages import decoder_layers
from tokenprune.engine.patching import Patches
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import PlanError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import placement
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import Batch, ModelShape
from tokenprune.lab.train.biasing import KeyBias
from tokenprune.lab.train.sharing import share_pictures
from tokenprune.lab.train.taps import Tap, tap_plan, tapped
from tokenprune.plan import Plan

Watch = Callable[[Attachment], None]


class _Reached(Exception):
    """What lies behind the encoder was reached."""


def _stop(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    raise _Reached


class PlanSession:
    """A `TrainingSession` of one plan on one model.

    A plan is attached for every forward and detached after it, whatever happens, so the model is
    the user's own between forwards.

    Args:
        model: the multimodal LLM, frozen by `frozen`.
        adapter: its family.
        plan: the whole plan.
        stages: its stages, built.
        trained: number of the stage that learns.
        shape: the model's.
        watch: told of every attachment with the trained stage, before pictures are shared.

    Raises:
        LayerError: the decoder stages overlap, or there is no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: MllmAdapter,
        plan: Plan,
        stages: Sequence[ResolvedStage],
        trained: int,
        shape: ModelShape,
        watch: Watch | None = None,
    ) -> None:
        self._model, self._adapter, self._plan = model, adapter, plan
        self._stages, self._trained = list(stages), trained
        self._shape, self._watch = shape, watch
        late = [number for number, stage in enumerate(stages) if stage.plan.at == "decoder"]
        spans = decoder_layers([self._stages[number] for number in late], shape.llm_layers)
        self._spans = dict(zip(late, spans, strict=True))
        for number, span in self._spans.items():
            self._stages[number] = pinned(self._stages[number], span)

    @property
    def shape(self) -> ModelShape:
        """The model."""
        return self._shape

    @property
    def layer(self) -> int:
        """The first LLM layer of the trained stage."""
        return self.layers.start

    @property
    def layers(self) -> range:
        """All LLM layers of the trained stage."""
        return self._spans.get(self._trained, range(0))

    def budget(self, count: int) -> int:
        """Tokens that are left of `count`."""
        return self._stages[self._trained].keep(count)

    def pruned(self, batch: Batch) -> Tensor:
        """Logits `[A, V]` with the whole plan in force."""
        with self._attached(self._stages, batch, self._watch):
            return self._logits(batch)

    @property
    def shares(self) -> bool:
        """Whether several questions can use one pass of a picture through the encoder."""
        return self._adapter.spec().projector is not None

    def encode(self, batch: Batch) -> None:
        """Everything in front of the projector, or of the LLM where no projector is followed."""
        spec = self._adapter.spec()
        with Patches() as patches:
            patches.override(spec.projector or spec.language_model, "forward", _stop)
            with suppress(_Reached), self._attached(self._stages, batch, self._watch):
                self._logits(batch)

    def dense(
        self, batch: Batch, taps: Mapping[int, Sequence[Signal]] | None = None
    ) -> tuple[Tensor, dict[int, Tokens]]:
        """Logits `[A, V]` without the trained stage, and what was tapped; see `TrainingSession`."""
        placed = {layer: Tap(signals) for layer, signals in (taps or {}).items()}
        with torch.no_grad(), self._attached(self._others(placed), batch):
            logits = self._logits(batch)
        rows = batch.labels.shape[0]
        return logits, {layer: tap.tokens(rows) for layer, tap in placed.items()}

    def biased(self, batch: Batch, bias: Tensor, *, first: int = 0) -> Tensor:
        """Logits `[A, V]` with a bias `[B, N]` in place of the stage; see `TrainingSession`."""
        others = self._others({})
        # the engine lays the prompt out only for a plan with stages
        with self._attached(others or self._others({0: Tap()}), batch) as attachment:
            KeyBias(attachment, self._adapter, bias, first)
            return self._logits(batch)

    def _others(self, taps: Mapping[int, Tap]) -> list[ResolvedStage]:
        """The stages that don't learn, and taps among them in the order of the layers."""
        kept = [pair for pair in enumerate(self._stages) if pair[0] != self._trained]
        early = [stage for number, stage in kept if number not in self._spans]
        late = {self._spans[number]: stage for number, stage in kept if number in self._spans}
        for layer, tap in taps.items():
            taken = next((span for span in late if layer in span), None)
            if taken is None:
                number = len(self._stages) + layer
                late[range(layer, layer + 1)] = ResolvedStage(number, tap_plan(layer), tap)
            else:
                late[taken] = tapped(late[taken], layer, tap)
        return early + [late[span] for span in sorted(late, key=lambda span: span.start)]

    @contextmanager
    def _attached(
        self, stages: list[ResolvedStage], batch: Batch, watch: Watch | None = None
    ) -> Iterator[Attachment]:
        plan = self._plan.model_copy(update={"stages": tuple(stage.plan for stage in stages)})
        with attach_stages(self._model, plan, stages, self._adapter) as attachment:
            if watch is not None:
                watch(attachment)
            # laid over what watches, so that this sees a picture for every question
            projector = self._adapter.spec().projector
            if batch.shared > 1 and projector is not None:
                share_pictures(attachment, projector, batch.shared)
            yield attachment

    def _logits(self, batch: Batch) -> Tensor:
        # the labels also tell the engine where the prompt ends
        outputs: Any = self._model(**batch.inputs, labels=batch.labels, use_cache=False)
        logits: Tensor = outputs.logits[:, :-1]
        return logits[batch.labelled.to(logits.device)]


def pinned(stage: ResolvedStage, span: range) -> ResolvedStage:
    """A decoder stage that keeps its layers whatever stands beside it."""
    if not placement(stage.strategy, "decoder").every_layer or stage.plan.layer is not None:
        return stage
    layers = (span[0], span[-1])
    return replace(stage, plan=stage.plan.model_copy(update={"layers": layers}))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients into the model's own parameters and no training mode, until the end."""
    learns = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for parameter, _ in learns:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in learns:
            parameter.requires_grad_(wanted)
        for module, training in modes:
            module.training = training


def model_shape(adapter: MllmAdapter, inputs: Mapping[str, Any] | None = None) -> ModelShape:
    """What a learned strategy has to know of a model.

    Args:
        adapter: its family.
        inputs: of one prompt with a picture of the usual size, for families with any size.

    Raises:
        UnsupportedModelError: no adapter serves its vision tower.
        PlanError: the projector reads several depths of the encoder.
    """
    spec = adapter.spec()
    if spec.modalities and inputs is not None:
        return _shape_of_call(adapter, inputs)
    if spec.used is None or spec.projector is None:
        raise PlanError("training needs a projector that reads one feature layer.", where="train")
    tower = choose_encoder(spec.tower).spec()
    frames, height, width = tower.grid
    features = torch.zeros(1, frames * height * width, tower.width)
    features = features.to(next(spec.projector.parameters()))
    with torch.no_grad():
        llm_width = spec.projector(features).shape[-1]
    return ModelShape(tower.width, spec.used, tower.grid, llm_width, len(spec.layers))


def _shape_of_call(adapter: MllmAdapter, inputs: Mapping[str, Any]) -> ModelShape:
    """The shape of a model whose tower isn't followed: of what stands in front of its LLM."""
    spec = adapter.spec()
    layer, widths = spec.layers[0], dict[str, int]()

    def before(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        embeds = adapter.read_llm(args, kwargs).embeds
        assert embeds is not None  # its pictures stand in them
        widths["before"] = embeds.shape[-1]
        return original(*args, **kwargs)

    def inside(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        widths["inside"] = adapter.read_layer(layer, args, kwargs).hidden.flatten(2).shape[-1]
        return original(*args, **kwargs)

    model = adapter.model
    with Patches() as patches:
        patches.override(spec.language_model, "forward", before)
        patches.override(layer, "forward", inside)
        with torch.no_grad(), attach_stages(model, Plan(), [], adapter) as attachment:
            model(**inputs)
    grid = attachment.trace.images[0].grid
    return ModelShape(widths["before"], 0, grid, widths["inside"], len(spec.layers))
