"""The embedding predictor of VisPer-LM: a Perceiver resampler of one layer."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprune.interface.sites import Grid
from tokenprune.interface.tokens import grid_positions
from tokenprune.lab.probe.states import States

HEADS, HEAD_WIDTH = 4, 32
PERIOD = 10_000.0


def sinusoid(position: Tensor, width: int) -> Tensor:
    """Sines and cosines of (t, h, w) `[..., 3]` -> `[..., width]`, a third of it for each axis.

    Channels that don't divide by six are left zero. That tokens get them at all is ours: the paper
    reads from complete sequences, whose order says where a token was.
    """
    pairs = width // 6
    rate = torch.arange(pairs, device=position.device) / max(pairs, 1)
    angle = position[..., None].float() * PERIOD**-rate
    waves = torch.cat((angle.sin(), angle.cos()), dim=-1).flatten(-2)
    return F.pad(waves, (0, width - waves.shape[-1]))


class Resampler(nn.Module):
    """Predicts a frame's grid of features from visual tokens.

    q = in(latents), x = in(tokens); q += Attn(LN(q), LN(x) and LN(q)); q += FFN(q);
    p = LN(out(q)). Source: VisPer-LM (arXiv 2412.09585), embedding predictor, with its 4 heads of
    32, depth 1 and an FFN of expansion 1. Ours: places as sinusoids on tokens and latents, and
    keys that start equal to queries, so that at first a latent reads the tokens near its place.

    Args:
        width: d, channels of the tokens.
        target: channels of the features, also the width inside.
        grid: the unpruned grid (t, h, w); a latent stands for each of its h x w patches.
        seed: of the weights.
    """

    def __init__(self, width: int, target: int, grid: Grid, seed: int = 0) -> None:
        super().__init__()
        self.grid, self._target = grid, target
        inner = HEADS * HEAD_WIDTH
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.latents = nn.Parameter(torch.randn(grid[1] * grid[2], width) * width**-0.5)
            self.project_in = nn.Linear(width, target)
            self.norm_tokens, self.norm_latents = nn.LayerNorm(target), nn.LayerNorm(target)
            self.query = nn.Linear(target, inner, bias=False)
            self.key = nn.Linear(target, inner, bias=False)
            self.value = nn.Linear(target, inner, bias=False)
            self.project_heads = nn.Linear(inner, target, bias=False)
            self.feed_forward = nn.Sequential(
                nn.LayerNorm(target),
                nn.Linear(target, target),
                nn.GELU(),
                nn.Linear(target, target),
            )
            self.project_out = nn.Linear(target, target)
            self.norm_out = nn.LayerNorm(target)
        with torch.no_grad():
            self.key.weight.copy_(self.query.weight)

    def forward(self, states: States, frame: int = 0) -> Tensor:
        """Features of a frame's patches, `[n, h * w, target]`, from tokens of all frames."""
        count = len(states)
        latents = self.project_in(self.latents) + self._places(frame)
        latents = latents.expand(count, -1, -1)
        tokens = self.project_in(states.hidden.to(self.latents.dtype))
        tokens = tokens + sinusoid(states.position, self._target)
        latents = latents + self._attend(latents, tokens, states.mask)
        latents = latents + self.feed_forward(latents)
        return cast(Tensor, self.norm_out(self.project_out(latents)))

    def _places(self, frame: int) -> Tensor:
        _, height, width = self.grid
        cells = torch.arange(height * width, device=self.latents.device) + frame * height * width
        return sinusoid(grid_positions(self.grid, cells), self._target)

    def _attend(self, latents: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        asking = self.norm_latents(latents)
        seen = torch.cat((self.norm_tokens(tokens), asking), dim=1)
        # padding may hold anything, and anything times a weight of zero may still be NaN
        visible = torch.cat((mask, mask.new_ones(latents.shape[:2])), dim=1)
        seen = torch.where(visible[..., None], seen, 0.0)
        query, key, value = (
            torch.unflatten(part, -1, (HEADS, HEAD_WIDTH)).transpose(1, 2)
            for part in (self.query(asking), self.key(seen), self.value(seen))
        )
        read = F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible[:, None, None, :]
        )
        return cast(Tensor, self.project_heads(read.transpose(1, 2).flatten(-2)))


def cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Cosine similarity of features, `[..., D]` twice -> `[...]`; 0 where one of them is zero."""
    return F.cosine_similarity(predicted.float(), target.float(), dim=-1)


def scale(target: Tensor) -> float:
    """Root mean square of features `[...]`, by which targets are divided so that losses compare."""
    return math.sqrt(float(target.detach().float().square().mean())) or 1.0
