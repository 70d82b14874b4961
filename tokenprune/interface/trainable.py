"""The interface of strategies that learn, and what a training run offers them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Grid
from tokenprune.interface.strategy import ParamsT, PruningStrategy
from tokenprune.interface.tokens import Tokens

IGNORE = -100
"""Label of a token that nobody has to predict."""


@dataclass(frozen=True)
class ModelShape:
    """What a learned strategy has to know of a model to be trained for it.

    Attributes:
        encoder_width: D, channels of the encoder's tokens.
        encoder_blocks: blocks that feed the projector.
        grid: the default patch grid (t, h, w).
        llm_width: channels of a token inside the LLM.
        llm_layers: layers of the LLM.
    """

    encoder_width: int
    encoder_blocks: int
    grid: Grid
    llm_width: int
    llm_layers: int


@dataclass(frozen=True)
class Batch:
    """Questions with their answers, ready for the model.

    Attributes:
        inputs: keyword arguments of the model; `input_ids` `[B, T]` with the answers at the end,
            the pictures' arguments once for every `shared` rows.
        labels: `[B, T]` token ids of the answers, `IGNORE` elsewhere.
        shared: how many rows that follow each other ask about the same picture.
        kinds: group of every question, for separate accuracies.
    """

    inputs: Mapping[str, Any]
    labels: Tensor
    shared: int = 1
    kinds: tuple[str, ...] = ()

    @property
    def labelled(self) -> Tensor:
        """`[B, T - 1]` bool: places whose next token is labelled."""
        return self.labels[:, 1:] != IGNORE

    @property
    def targets(self) -> Tensor:
        """`[A]` labelled tokens, row by row."""
        return self.labels[:, 1:][self.labelled]

    @property
    def rows(self) -> Tensor:
        """`[A]` row of every labelled token."""
        return self.labelled.nonzero()[:, 0]


@dataclass(frozen=True)
class Phase:
    """A part of a training run with a loss of its own.

    Attributes:
        name: how records call it.
        share: its share of the steps; shares are relative to each other.
    """

    name: str
    share: float = 1.0


@dataclass(frozen=True)
class TrainingStep:
    """Where in a run a loss is asked for.

    Attributes:
        number: the step, from 0.
        phase: name of the phase.
        progress: share of the phase that is done, in [0, 1).
        generator: the step's own source of randomness, on the CPU.
    """

    number: int
    phase: str
    progress: float
    generator: torch.Generator


@dataclass(frozen=True)
class StepLoss:
    """What a strategy answers.

    Attributes:
        loss: a scalar; gradients reach the strategy's own parameters only.
        metrics: further numbers for progress and record, such as `accuracy`.
    """

    loss: Tensor
    metrics: Mapping[str, float] = field(default_factory=dict)


class TrainingSession(Protocol):
    """The frozen model as a loss sees it; the plan's other stages stay in force throughout.

    Logits are those of the labelled tokens, `[A, V]` in the order of `Batch.targets`. Labelled
    tokens take no part in signals of the question.
    """

    @property
    def shape(self) -> ModelShape:
        """The model."""
        ...

    @property
    def layer(self) -> int:
        """The LLM layer before which the trained stage stands; 0 for stages before the LLM."""
        ...

    @property
    def layers(self) -> range:
        """The LLM layers before which the trained stage is asked; none for stages before the LLM.

        Layers that other stages bound are left out, as at inference.
        """
        ...

    def budget(self, count: int) -> int:
        """Tokens that the plan leaves of `count` that arrive at the trained stage."""
        ...

    def pruned(self, batch: Batch) -> Tensor:
        """Logits `[A, V]` with the whole plan in force; gradients reach the trained strategy."""
        ...

    def encode(self, batch: Batch) -> None:
        """Run the plan up to the projector only, for losses of stages before it that need no more.

        The strategy is asked as in `pruned`, and has to remember what it wants.
        """
        ...

    def dense(
        self, batch: Batch, taps: Mapping[int, Sequence[Signal]] | None = None
    ) -> tuple[Tensor, dict[int, Tokens]]:
        """Logits without the trained stage, and what a strategy would get at LLM layers.

        Args:
            batch: the batch.
            taps: signals to read by the layer before which a strategy would stand; layer 0 is
                the LLM's input. Where another stage stands, they are read before it acts.

        Returns:
            Logits `[A, V]` and, by layer, the visual tokens of all rows with these signals.
            Nothing of it carries gradients.
        """
        ...

    def biased(self, batch: Batch, bias: Tensor, *, first: int = 0) -> Tensor:
        """Logits `[A, V]` without the trained stage, with a bias on the visual tokens' keys.

        Args:
            batch: the batch.
            bias: `[B, N]` added to the logits of every query, for the visual tokens that reach
                the LLM, or `[B, 1]` for all of a row; minus infinity hides a token. Gradients
                reach it.
            first: the first layer of the LLM that it acts in.
        """
        ...


class TrainableStrategy(PruningStrategy[ParamsT]):
    """A learned method with its own training loss.

    Class attributes:
        phases: the parts of a training run, in order.
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase("answers"),)

    @abstractmethod
    def modules(self) -> nn.Module:
        """Everything that is learned."""

    def loss(self, session: TrainingSession, batch: Batch, step: TrainingStep) -> StepLoss:
        """The loss of one batch; by default that of the answers through the pruned model."""
        return answer_loss(session.pruned(batch), batch)

    @abstractmethod
    def save_checkpoint(
        self, path: Path, facts: Mapping[str, str] | None = None, *, half: bool = False
    ) -> None:
        """Write the weights for the parameter `checkpoint`.

        Args:
            path: the file to write.
            facts: metadata, such as what it was trained on.
            half: write float16.
        """

    @classmethod
    def untrained(cls, shape: ModelShape, keep: int | None) -> Mapping[str, Any]:
        """Parameters of an instance with random weights for a model.

        Args:
            shape: the model.
            keep: tokens per image that it is to keep; None where the plan doesn't say.
        """
        return {}

    @classmethod
    def shipped(cls) -> Mapping[str, Path]:
        """Checkpoint files that ship with the strategy, by name."""
        return {}

    @classmethod
    def trained_for(cls, params: ParamsT) -> Mapping[str, str]:
        """What the checkpoint that parameters name says of the model that it was trained for.

        Args:
            params: of a plan.

        Returns:
            `model` (its name), `model_sha256` (of its weights) and `model_sample` (some of them,
            see `tokenprune.engine.trained`) as far as they are known; nothing where there is no
            checkpoint, or where the plan wants it on any model.
        """
        return {}

    def train(self, mode: bool = True) -> Any:
        """Switch between training and inference; the model is left as it is."""
        self.modules().train(mode)
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser updates."""
        return self.modules().parameters()

    def reseed(self, seed: int) -> None:
        """Start the strategy's own randomness in training anew; called before every step."""


def untrained_params(
    kind: type[PruningStrategy[Any]], shape: ModelShape, keep: int | None
) -> dict[str, Any]:
    """Parameters of an instance with random weights; none for strategies that need no weights."""
    return dict(kind.untrained(shape, keep)) if issubclass(kind, TrainableStrategy) else {}


def answer_loss(logits: Tensor, batch: Batch) -> StepLoss:
    """Mean cross-entropy of the labelled tokens, with the share of answers that are right.

    Args:
        logits: `[A, V]` of the labelled tokens, in the order of `Batch.targets`.
        batch: what they belong to.
    """
    targets = batch.targets.to(logits.device)
    loss = F.cross_entropy(logits.float(), targets)
    return StepLoss(loss, {"accuracy": float(right(logits, batch).float().mean())})


def right(logits: Tensor, batch: Batch) -> Tensor:
    """`[A, V]` -> `[B]` bool: whether every labelled token of a row is the most likely one."""
    wrong = logits.detach().argmax(dim=-1).cpu() != batch.targets.cpu()
    misses = torch.zeros(batch.labels.shape[0], dtype=torch.long, device="cpu")
    return misses.index_add(0, batch.rows.cpu(), wrong.long()) == 0


def row_means(values: Tensor, batch: Batch) -> Tensor:
    """Means `[B]` of values `[A]` of labelled tokens; 0 for a row without any."""
    rows = batch.rows.to(values.device)
    zeros = values.new_zeros(batch.labels.shape[0])
    count = zeros.index_add(0, rows, torch.ones_like(values)).clamp(min=1)
    return zeros.index_add(0, rows, values) / count
