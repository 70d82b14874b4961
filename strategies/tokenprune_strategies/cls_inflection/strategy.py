"""Two stages: the curve of CLS similarity before the LLM, the question's attention inside it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune_strategies.cls_inflection.choosing import head, words
from tokenprune_strategies.cls_inflection.params import OURS, Bound, ClsInflectionParams

_ASKED = {
    "attention": (Signal.CLS_ATTENTION,),
    "cosine": (Signal.CLS_SIMILARITY,),
    "received": (Signal.ATTENTION_RECEIVED,),
    "pooled": (),
}


class ClsInflection(PruningStrategy[ClsInflectionParams]):
    """Cut the sorted curve of similarities where it bends, so that every image sets its budget.

    At `pre_llm` the curve is that of the class token's similarity. At `decoder`, behind layer 1 as
    FastV does it (ours), it is the mean attention of the question; with `keep_text` the question's
    own tokens are cut by the same rule, but for the last ones and half of them at least; text in
    front of the image stays. A plan's `keep` and `keep_text` are ceilings, and the latter may be
    too small for all that. Flat curves keep `k_min` evenly spaced tokens.

    Source: Sparsity Meets Similarity (arXiv 2409.01162), of which only the abstracts could be read:
    long-tailed similarity to the class token, an inflection point per sample, a second pruning of
    visual and textual tokens by their interaction. Everything concrete is our choice. Its cosine
    behind CLIP's visual projection isn't offered: no signal carries it.
    """

    name = "cls_inflection"
    Params = ClsInflectionParams
    # layer 2, as FastV does it, or the last of two
    stages = (PreLlm(), Decoder(layer=lambda layers: min(2, layers - 1), text=True))
    length = "own"
    about = About(
        summary="Keeps the head of every image's curve of similarity to the CLS token.",
        paper="Sparsity Meets Similarity, arXiv 2409.01162",
        licence="Written from the abstracts; no official code was found.",
        ours=OURS,
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The similarity asked for; inside the LLM the question's attention, and where it is."""
        if site.stage == "decoder":
            return (Signal.QUESTION_ATTENTION_MEAN, Signal.BEHIND_IMAGES)
        return _ASKED[self.params.similarity]

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """A mask, sample by sample."""
        score = self._score(tokens).float()
        choose = self._words if tokens.kind == "text" else self._patches
        kept = [choose(tokens, score[row], budget, row) for row in range(score.shape[0])]
        return Reduction.keep_mask(torch.stack(kept), score=score)

    def _score(self, tokens: Tokens) -> Tensor:
        if tokens.site.stage == "decoder":
            return tokens.signal(Signal.QUESTION_ATTENTION_MEAN)
        if self.params.similarity == "pooled":
            return scaled(pooled_similarity(tokens.hidden, tokens.size))
        score = tokens.signal(self.signals(tokens.site)[0])
        return scaled(score) if self.params.similarity == "cosine" else score

    def _patches(self, tokens: Tokens, score: Tensor, budget: Budget, row: int) -> Tensor:
        params, frames = self.params, tokens.grid[0]
        most = _bound(params.k_max, tokens.count, frames)
        if budget.given:
            most = min(most, budget.keep)
        least = min(_bound(params.k_min, tokens.count, frames), most)
        return head(score, params.knee, params.window, least, most)

    def _words(self, tokens: Tokens, score: Tensor, budget: Budget, row: int) -> Tensor:
        params = self.params
        asking = tokens.signal(Signal.BEHIND_IMAGES)[row]
        last = tokens.index[row] >= tokens.grid[2] - params.last_text
        return words(score, asking, last, params.knee, params.window, params.min_text, budget.keep)


def _bound(bound: Bound, count: int, frames: int) -> int:
    """A bound in tokens: of every frame, or a share of all; 1 to `count`."""
    tokens = bound * frames if isinstance(bound, int) else int(bound * count + 1e-9)
    return min(max(tokens, 1), count)


def pooled_similarity(hidden: Tensor, size: Tensor) -> Tensor:
    """Cosine of every token `[B, N, D]` with their mean, weighted by size `[B, N]` -> `[B, N]`."""
    hidden, weight = hidden.float(), size[..., None].float()
    mean = (hidden * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
    return cosine_similarity(hidden, mean, dim=-1)


def scaled(score: Tensor) -> Tensor:
    """Scores `[B, N]` brought to 0..1 row by row; a flat row becomes zeros."""
    low, high = score.amin(dim=1, keepdim=True), score.amax(dim=1, keepdim=True)
    span = high - low
    return torch.where(span > 1e-6, (score - low) / span.clamp(min=1e-6), 0.0)
