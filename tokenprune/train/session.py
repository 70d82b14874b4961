"""The frozen model as a training loss sees it, on top of what attaching does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from tokenprune.adapter import MllmAdapter
from tokenprune.engine.attach import attach_stages
from tokenprune.engine.attachment import Attachment
from tokenprune.engine.patching import Patches
from tokenprune.engine.stages import ResolvedStage
from tokenprune.errors import PlanError
from tokenprune.plan import Plan
from tokenprune.strategy import ModelShape
from tokenprune.tokens import Signal, Tokens
from tokenprune.train.biasing import KeyBias
from tokenprune.train.sharing import share_pictures
from tokenprune.train.taps import Tap, tap_plan
from tokenprune.trainable import Batch

Watch = Callable[[Attachment], None]


class _Reached(Exception):
    """The projector was reached."""


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

    @property
    def shape(self) -> ModelShape:
        """The model."""
        return self._shape

    @property
    def layer(self) -> int:
        """The LLM layer of the trained stage."""
        stage = self._stages[self._trained]
        return self._first(stage) if stage.plan.at == "decoder" else 0

    def budget(self, count: int) -> int:
        """Tokens that are left of `count`."""
        return self._stages[self._trained].keep(count)

    def pruned(self, batch: Batch) -> Tensor:
        """Logits `[A, V]` with the whole plan in force."""
        with self._attached(self._stages, batch, self._watch):
            return self._logits(batch)

    def encode(self, batch: Batch) -> None:
        """Everything in front of the projector."""
        patches = Patches()
        patches.override(self._adapter.spec().projector, "forward", _stop)
        try:
            with suppress(_Reached), self._attached(self._stages, batch, self._watch):
                self._logits(batch)
        finally:
            patches.undo()

    def dense(
        self, batch: Batch, taps: Mapping[int, Sequence[Signal]] | None = None
    ) -> tuple[Tensor, dict[int, Tokens]]:
        """Logits without the trained stage, and what was tapped; see `TrainingSession`."""
        placed = {layer: Tap(signals) for layer, signals in (taps or {}).items()}
        with torch.no_grad(), self._attached(self._others(placed), batch):
            logits = self._logits(batch)
        rows = batch.labels.shape[0]
        return logits, {layer: tap.tokens(rows) for layer, tap in placed.items()}

    def biased(self, batch: Batch, bias: Tensor, *, first: int = 0) -> Tensor:
        """Logits without the trained stage, with a bias on keys; see `TrainingSession`."""
        others = self._others({})
        # the engine lays the prompt out only for a plan with stages
        with self._attached(others or self._others({0: Tap()}), batch) as attachment:
            KeyBias(attachment, self._adapter, bias, first)
            return self._logits(batch)

    def _others(self, taps: Mapping[int, Tap]) -> list[ResolvedStage]:
        """The stages that don't learn, and taps among them in the order of the layers."""
        kept = [stage for number, stage in enumerate(self._stages) if number != self._trained]
        early = [stage for stage in kept if stage.plan.at != "decoder"]
        late = [(self._first(stage), stage) for stage in kept if stage.plan.at == "decoder"]
        for layer, tap in taps.items():
            if any(layer == taken for taken, _ in late):
                raise PlanError(
                    f"training has to look at the input of layer {layer}, where another stage "
                    "stands.",
                    where="stages",
                    remedy="Move that stage to another layer.",
                )
            late.append((layer, ResolvedStage(len(self._stages) + layer, tap_plan(layer), tap)))
        return early + [stage for _, stage in sorted(late, key=lambda pair: pair[0])]

    def _first(self, stage: ResolvedStage) -> int:
        """The first layer that a decoder stage acts at."""
        if stage.plan.layers is not None:
            return stage.plan.layers[0]
        if stage.plan.layer is not None:
            return stage.plan.layer
        return stage.strategy.layer_for(self._shape.llm_layers) or 0

    @contextmanager
    def _attached(
        self, stages: list[ResolvedStage], batch: Batch, watch: Watch | None = None
    ) -> Iterator[Attachment]:
        plan = self._plan.model_copy(update={"stages": tuple(stage.plan for stage in stages)})
        with attach_stages(self._model, plan, stages, self._adapter) as attachment:
            if watch is not None:
                watch(attachment)
            # laid over what watches, so that this sees a picture for every question
            if batch.shared > 1:
                share_pictures(attachment, self._adapter.spec().projector, batch.shared)
            yield attachment

    def _logits(self, batch: Batch) -> Tensor:
        # the labels also tell the engine where the prompt ends
        outputs: Any = self._model(**batch.inputs, labels=batch.labels, use_cache=False)
        logits: Tensor = outputs.logits[:, :-1]
        return logits[batch.labelled.to(logits.device)]


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


def model_shape(adapter: MllmAdapter, encoder_width: int, grid: tuple[int, int, int]) -> ModelShape:
    """What a learned strategy has to know of a model.

    Args:
        adapter: the model's.
        encoder_width: D, channels of the encoder's tokens.
        grid: the encoder's default patch grid.

    Raises:
        PlanError: the projector reads several depths of the encoder.
    """
    spec = adapter.spec()
    if spec.used is None:
        raise PlanError("training needs a projector that reads one feature layer.", where="train")
    example = next(spec.projector.parameters())
    features = torch.zeros(1, grid[0] * grid[1] * grid[2], encoder_width).to(example)
    with torch.no_grad():
        width = spec.projector(features).shape[-1]
    return ModelShape(encoder_width, spec.used, grid, width, len(spec.layers))
