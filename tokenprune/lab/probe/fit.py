"""Fitting the probe on unpruned states, and scoring pruned ones with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.interface.sites import Grid
from tokenprune.lab.probe.resampler import Resampler, cosine, scale
from tokenprune.lab.probe.states import States

#: Learning rate of the paper. Epochs and batch are ours: a few hundred pictures instead of 118k.
RATE, EPOCHS, BATCH = 1e-3, 16, 32


@dataclass(frozen=True)
class Probe:
    """A fitted and frozen resampler at one place.

    Attributes:
        resampler: what predicts.
        centre: mean feature of the fit, `[D]`; similarities are of features without it (ours:
            with it a constant answer would score high).
        mean: mean state of the fit, `[d]`, which stands for knowing nothing.
    """

    resampler: Resampler
    centre: Tensor
    mean: Tensor

    def score(self, states: States, target: Tensor) -> Tensor:
        """Cosine similarity of what is read with what was there, by patch.

        Args:
            states: at the place the probe was fitted for, with any number of tokens.
            target: the encoder's features, `[n, T, h * w, D]`.

        Returns:
            `[n, T, h * w]`; its mean over a sample is the sample's score.
        """
        found = []
        with torch.no_grad():
            for frame in range(target.shape[1]):
                batches = range(0, len(states), BATCH)
                read = [self.resampler(states[at : at + BATCH], frame) for at in batches]
                found.append(cosine(torch.cat(read), target[:, frame] - self.centre))
        return torch.stack(found, dim=1)

    def null(self, states: States, target: Tensor) -> Tensor:
        """The score of tokens that all hold the mean state, `[n, T, h * w]`."""
        return self.score(states.filled(self.mean), target)


def fit_probe(
    states: States,
    target: Tensor,
    grid: Grid,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
) -> Probe:
    """Fit a resampler to read features from states, and freeze it.

    SmoothL1 as in the paper's probes; Adam with a rate that falls linearly. For the upper bound of
    what pruned states still hold, fit on those instead of unpruned ones.

    Args:
        states: of the fitting samples.
        target: their features, `[n, T, h * w, D]`.
        grid: the unpruned grid (t, h, w), t being the frames T.
        seed: of weights, order and drawn frames.
        epochs: passes over the samples.
    """
    centre = target.float().mean(dim=(0, 1, 2))
    wanted = (target.float() - centre) / scale(target.float() - centre)
    resampler = Resampler(states.hidden.shape[-1], target.shape[-1], grid, seed).to(target.device)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(states) // BATCH)
    optimiser = torch.optim.Adam(resampler.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.randperm(len(states), generator=generator)
            for picked in torch.split(order, BATCH):
                frame = int(torch.randint(target.shape[1], (1,), generator=generator))
                loss = F.smooth_l1_loss(resampler(states[picked], frame), wanted[picked, frame])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return Probe(resampler.eval().requires_grad_(False), centre, states.mean())
