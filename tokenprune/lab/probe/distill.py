"""An auxiliary loss for strategies that learn: kept tokens should still tell the features.

For training a compressor or a projector only; in instruction tuning it did harm in the paper.
Gradients reach a strategy through the tokens' values: from a hard top-k alone no gradient reaches
the scores.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.interface.sites import Grid
from tokenprune.lab.probe.resampler import Resampler, scale
from tokenprune.lab.probe.states import States

#: Weights of the paper: of the whole loss, and of its contrastive part.
WEIGHT, CONTRASTIVE = 0.5, 0.3

#: Start of the learned temperature's logarithm, and the largest factor on the logits.
LOG_FACTOR, MOST = 2.0, 100.0

#: Distance in cosine up to which two targets are taken for those of one picture (ours).
ALIKE = 1e-5


class Distillation(nn.Module):
    """weight * (SmoothL1(p, t) + 0.3 InfoNCE(p, t)), with p the resampler's prediction.

    Source: VisPer-LM (arXiv 2412.09585), embedding losses; the factor on the contrastive logits is
    min(exp(tau), 100) with a learned tau, as released. Targets divided by their root mean square
    are ours; the encoder's own features as target too.

    Args:
        width: d, channels of the tokens.
        target: channels of the features.
        grid: the unpruned grid (t, h, w).
        weight: of the loss.
        seed: of the resampler's weights.
    """

    def __init__(
        self,
        width: int,
        target: int,
        grid: Grid,
        *,
        weight: float = WEIGHT,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.resampler = Resampler(width, target, grid, seed)
        self.tau = nn.Parameter(torch.tensor(LOG_FACTOR))
        self.weight = weight

    def forward(self, states: States, target: Tensor, frame: int = 0) -> Tensor:
        """The loss, a scalar.

        Args:
            states: tokens that are left, with gradients; n samples.
            target: features of the frame, `[m, h * w, D]`, without; each of n / m samples that
                follow each other.
            frame: which frame of a video they are of.
        """
        wanted = target.detach().float() / scale(target)
        predicted = self.resampler(states, frame)
        factor = self.tau.exp().clamp(max=MOST)
        contrast = info_nce(predicted, wanted, factor)
        own = wanted.repeat_interleave(len(states) // len(wanted), dim=0)
        return self.weight * (F.smooth_l1_loss(predicted, own) + CONTRASTIVE * contrast)


def info_nce(predicted: Tensor, target: Tensor, factor: Tensor | float) -> Tensor:
    """Cross-entropy of finding a sample's own target among the batch's, a scalar.

    Equal targets, such as those of one picture that the batch has twice, count as one.

    Args:
        predicted: `[n, ...]`, flattened and normalised.
        target: `[m, ...]`, the same; each of n / m samples that follow each other, so that no
            sample is told from others of its own picture.
        factor: on the cosine similarities.
    """
    one = F.normalize(predicted.flatten(1), dim=1)
    other = F.normalize(target.flatten(1), dim=1)
    own = torch.arange(len(one), device=one.device) // (len(one) // len(other))
    numbers = torch.arange(len(other), device=one.device)
    alike = (other @ other.T > 1 - ALIKE).fill_diagonal_(True)
    first = torch.where(alike, numbers, len(other)).amin(dim=1)
    logits = (factor * (one @ other.T)).masked_fill(first != numbers, float("-inf"))
    return F.cross_entropy(logits, first[own])
