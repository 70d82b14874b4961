"""What trains any of the bundled models: parameters, chances, the loss of answers, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from training.reference_model.forward import Weights, logits
from training.reference_model.vocab import EOS

#: Weight of `<eos>` behind the answer.
EOS_WEIGHT = 0.2

HeadsT = TypeVar("HeadsT", bound=nn.Module)


class ModelTrainer(Generic[HeadsT]):
    """A model, its heads and the random choices of training.

    Args:
        seed: of the run.
        model: what is trained.
        heads: read-outs of the dense losses, thrown away after training.
    """

    def __init__(self, seed: int, model: nn.Module, heads: HeadsT) -> None:
        self.seed, self.model, self.heads = seed, model, heads
        self.random = Generator()

    def weights(self) -> Weights:
        """The parameters in bfloat16, still connected to their fp32 masters."""
        return {name: p.bfloat16() for name, p in self.model.named_parameters()}

    def chance(self, share: float) -> bool:
        """Whether an event of this probability happens."""
        return float(torch.rand((), generator=self.random)) < share

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


def by_type(right: Tensor, types: Tensor, names: Sequence[str]) -> dict[str, float]:
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
