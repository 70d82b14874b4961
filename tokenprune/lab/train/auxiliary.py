"""An auxiliary loss beside a strategy's own: kept tokens should still tell the features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tokenprune.engine.adapters import choose_adapter
from tokenprune.engine.attachment import Attachment
from tokenprune.errors import DataError, PlanError, UnsupportedCallError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.trainable import Batch, ModelShape, StepLoss
from tokenprune.lab.probe.capture import Reader
from tokenprune.lab.probe.distill import Distillation
from tokenprune.lab.probe.fit import RATE
from tokenprune.lab.probe.places import ENCODER, parse_places
from tokenprune.lab.probe.states import Rows, States
from tokenprune.lab.train.settings import TrainSettings


class Auxiliary:
    """Reads the tokens that the plan leaves in `TrainingSession.pruned` and adds a loss on them.

    Source: VisPer-LM (arXiv 2412.09585), embedding losses; see `Distillation`. Ours: the encoder's
    own features as target, and that it serves strategies that learn. The resampler and the
    temperature learn along and are left behind at the end.

    Args:
        model: the multimodal LLM, frozen.
        shape: the model's.
        settings: of the run, with an `aux_weight` above 0.

    Raises:
        DataError: there is no such place, or pictures of the model have any number of tokens.
    """

    def __init__(self, model: nn.Module, shape: ModelShape, settings: TrainSettings) -> None:
        adapter = choose_adapter(model)
        if isinstance(adapter, MllmAdapter) and adapter.spec().modalities:
            raise DataError(
                f"the reader has one grid, and pictures of {type(model).__name__} have tokens of "
                "any number.",
                where="--aux-weight",
                remedy="Leave it away with this model.",
            )
        self._place = _one(settings.aux_place, shape.llm_layers)
        self._reader = Reader(model, (self._place,))
        width = shape.encoder_width if self._place == ENCODER else shape.llm_width
        self.module = Distillation(
            width,
            shape.encoder_width,
            self._reader.grid,
            weight=settings.aux_weight,
            seed=settings.seed,
        ).to(next(model.parameters()).device)
        self._rows: Rows | None = None

    @property
    def group(self) -> dict[str, Any]:
        """What the optimiser is given: the paper's learning rate; no decay is ours."""
        return {"params": list(self.module.parameters()), "lr": RATE, "weight_decay": 0.0}

    def watch(self, attachment: Attachment) -> None:
        """Read along while this attachment runs, before anything else is laid over it."""
        self._rows = self._reader.watch(attachment)[self._place]

    def added(self, found: StepLoss, batch: Batch) -> StepLoss:
        """A step's loss with this one on top of it; its weighted value is the metric `aux`.

        Steps that run the model only up to the projector keep their loss.

        Args:
            found: what the strategy answered.
            batch: the batch it had.

        Raises:
            PlanError: from the tokens at the place no gradient reaches the strategy.
            UnsupportedCallError: the rows of the batch don't have one picture each.
        """
        rows, self._rows = self._rows, None
        if rows is not None and not rows:
            return found
        if rows is None or not any(hidden.requires_grad for hidden, _ in rows):
            raise _out_of_reach(self._place, ran=rows is not None)
        _, features = self._reader.dense(_pictures(batch))
        if len(rows) != batch.shared * len(features):
            raise UnsupportedCallError(
                f"{len(rows)} pictures in a batch of {batch.labels.shape[0]} questions.",
                where="--aux-weight",
                remedy="Give every question one picture of one size, or leave the option away.",
            )
        extra = self.module(States.of(rows), features[:, 0])
        metrics = {**found.metrics, "aux": float(extra.detach())}
        return StepLoss(found.loss + extra, metrics)


def _one(place: str, layers: int) -> str:
    found = parse_places([place], layers, where="--aux-place")
    if len(found) != 1:
        raise DataError(
            f"the auxiliary loss reads at one place, and '{place}' means several.",
            where="--aux-place",
            remedy=f"Use one of them: {', '.join(found)}.",
        )
    return found[0]


def _pictures(batch: Batch) -> Mapping[str, Any]:
    """Inputs with every picture once, in the first of its prompts."""
    if batch.shared == 1:
        return batch.inputs
    alone = {name: value[:: batch.shared] for name, value in batch.inputs.items()}
    return {**alone, "pixel_values": batch.inputs["pixel_values"]}


def _out_of_reach(place: str, *, ran: bool) -> PlanError:
    if ran:
        return PlanError(
            f"no gradient reaches the strategy from the tokens at '{place}': it acts behind that "
            "place, or it only chooses tokens, and a hard choice passes none to the scores.",
            where="--aux-place",
            remedy="Use a later place for strategies that make new tokens; for others leave "
            "--aux-weight away.",
        )
    return PlanError(
        "the strategy's loss never runs the pruned model: it learns scores or gates for a hard "
        "choice, to which the values of the kept tokens pass no gradient.",
        where="--aux-weight",
        remedy="Leave it away; it is for strategies that make new tokens.",
    )
