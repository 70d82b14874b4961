"""What trains any of the bundled models: a stage's steps, chances, the loss of answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.reference_model.forward import Weights, logits
from training.reference_model.optimiser import Optimisers, Rates
from training.reference_model.vocab import EOS
from training.shared.recipe import StageT
from training.shared.running import SAVE_EVERY, Meter

Scores = dict[str, float]
Losses = Generator[tuple[Tensor, Scores], None, None]
"""Of every step: the loss, and what the log tells besides."""

#: Weight of `<eos>` behind the answer.
EOS_WEIGHT = 0.2

HeadsT = TypeVar("HeadsT", bound=nn.Module)


class ModelTrainer(ABC, Generic[HeadsT, StageT]):
    """A model, its heads and the random choices of training.

    Args:
        seed: of the run.
        model: what is trained.
        heads: read-outs of the dense losses, thrown away after training.
    """

    def __init__(self, seed: int, model: nn.Module, heads: HeadsT) -> None:
        self.seed, self.model, self.heads = seed, model, heads
        self.random = torch.Generator()

    def weights(self) -> Weights:
        """The parameters in bfloat16, still connected to their fp32 masters."""
        return {name: p.bfloat16() for name, p in self.model.named_parameters()}

    def chance(self, share: float) -> bool:
        """Whether an event of this probability happens."""
        return float(torch.rand((), generator=self.random)) < share

    @abstractmethod
    def optimisers(self, stage: StageT) -> Optimisers:
        """Fresh optimisers of the parts that a stage trains."""

    @abstractmethod
    def meter(self, stage: StageT) -> Meter:
        """What writes the stage's log."""

    @abstractmethod
    def losses(self, stage: StageT, number: int, options: Namespace) -> Losses:
        """The forwards of a stage, each with the parameters as they are when it is asked for.

        Args:
            stage: the stage.
            number: its place among the stages; seeds what is drawn.
            options: of the command line.
        """

    def run(self, stage: StageT, number: int, options: Namespace) -> None:
        """Train one stage; `partial.pt` holds a look at it while it runs."""
        self.random.manual_seed(1000 * self.seed + number)
        optimisers, meter = self.optimisers(stage), self.meter(stage)
        with closing(self.losses(stage, number, options)) as losses:
            for step, (loss, scores) in zip(range(stage.taken), losses, strict=False):
                loss.backward()  # type: ignore[no-untyped-call]
                optimisers.step(step)
                meter.add(step, {"loss": float(loss.detach()), **scores})
                if (step + 1) % SAVE_EVERY == 0:
                    self.save(options.out / "partial.pt")

    def tower_and_language(
        self, tower: Rates | None, language: Rates | None, steps: int
    ) -> Optimisers:
        """Optimisers of tower and heads, and of projector and language model.

        Args:
            tower: peak rates of tower and heads; None leaves both alone.
            language: peak rates of projector and language model; None leaves both alone.
            steps: of the rates' schedule.
        """
        named = list(self.model.named_parameters())
        parts = []
        if tower is not None:
            inside = [(n, p) for n, p in named if "vision_tower" in n]
            parts.append((inside + list(self.heads.named_parameters()), tower))
        if language is not None:
            parts.append(([(n, p) for n, p in named if "vision_tower" not in n], language))
        return Optimisers(parts, steps)

    def save(self, path: Path) -> None:
        """Write model and heads."""
        torch.save({"model": self.model.state_dict(), "heads": self.heads.state_dict()}, path)

    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])


def answer_loss(
    w: Weights, hidden: Tensor, answer_at: Tensor, answer: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss of answer and `<eos>`, and which answers `[B, Q]` are right.

    Args:
        w: the parameters.
        hidden: `[B, Q, L, D]` of the questions' words.
        answer_at: `[B, Q]` place of the question mark, where the answer is said.
        answer: `[B, Q]` its word id.
    """
    at = answer_at[..., None, None].expand(-1, -1, -1, hidden.shape[-1])
    said = logits(w, hidden.gather(2, at).squeeze(2)).float()
    after = logits(w, hidden.gather(2, at + 1).squeeze(2)).float()
    loss = F.cross_entropy(said.flatten(0, 1), answer.flatten())
    stop = torch.full_like(answer, EOS)
    loss = loss + EOS_WEIGHT * F.cross_entropy(after.flatten(0, 1), stop.flatten())
    return loss, said.argmax(-1) == answer


def by_type(right: Tensor, types: Tensor, names: Sequence[str]) -> Scores:
    """Accuracy over all questions of a batch, and of every type that is asked.

    Args:
        right: `[B, Q]` which answers are right.
        types: `[B, Q]` index of the type.
        names: of the types.
    """
    scores = {"all": float(right.float().mean())}
    for number, name in enumerate(names):
        asked = types == number
        if asked.any():
            scores[name] = float(right[asked].float().mean())
    return scores
