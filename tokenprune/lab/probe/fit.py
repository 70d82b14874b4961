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
        shown: `[T, h * w]` bool: places that hold features; None for all.
    """

    resampler: Resampler
    centre: Tensor
    mean: Tensor
    shown: Tensor | None = None

    def score(self, states: States, target: Tensor) -> Tensor:
        """Cosine similarity of what is read with what was there, by patch.

        Args:
            states: at the place the probe was fitted for, with any number of tokens.
            target: the encoder's features, `[n, T, h * w, D]`.

        Returns:
            `[n, T, h * w]`; see `mean_score`.
        """
        found = []
        with torch.no_grad():
            for frame in range(target.shape[1]):
                batches = range(0, len(states), BATCH)
                read = [self.resampler(states[at : at + BATCH], frame) for at in batches]
                found.append(cosine(torch.cat(read), target[:, frame] - self.centre))
        return torch.stack(found, dim=1)

    def mean_score(self, states: States, target: Tensor) -> Tensor:
        """The score of every sample, `[n]`: the mean over places that hold features."""
        found = self.score(states, target)
        return found.mean(dim=(1, 2)) if self.shown is None else found[:, self.shown].mean(dim=1)

    def null(self, states: States, target: Tensor) -> Tensor:
        """The score of every sample with tokens that all hold the mean state, `[n]`."""
        return self.mean_score(states.filled(self.mean), target)


def fit_probe(
    states: States,
    target: Tensor,
    grid: Grid,
    *,
    shown: Tensor | None = None,
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
        shown: `[T, h * w]` bool: places of the grid that hold features; None for all.
        seed: of weights, order and drawn frames.
        epochs: passes over the samples.
    """
    shown = None if shown is None else shown.to(target.device)
    centre = (target if shown is None else target[:, shown]).float().flatten(0, -2).mean(dim=0)
    wanted = target.float() - centre
    wanted = wanted / scale(wanted if shown is None else wanted[:, shown])
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
                read, wished = resampler(states[picked], frame), wanted[picked, frame]
                if shown is not None:
                    read, wished = read[:, shown[frame]], wished[:, shown[frame]]
                loss = F.smooth_l1_loss(read, wished)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return Probe(resampler.eval().requires_grad_(False), centre, states.mean(), shown)
