"""The strategy `holitom`."""

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
from tokenprune_strategies.holitom.inner import halved
from tokenprune_strategies.holitom.outer import groups, place_in
from tokenprune_strategies.holitom.params import HoliTomParams
from tokenprune_strategies.holitom.windows import windows
from tokenprune_strategies.shared.counts import fitted
from tokenprune_strategies.shared.frames import by_frame
from tokenprune_strategies.shared.parts import Parts
from tokenprune_strategies.shared.saliency import SALIENCY


class HoliTom(PruningStrategy[HoliTomParams]):
    """Two stages, usable separately: merge over time before the LLM, prune and merge inside it.

    Source: HoliTom (arXiv 2505.21334, section 3), and notes on its code.
    """

    name = "holitom"
    Params = HoliTomParams
    # the paper's 18 of 28
    stages = (
        PreLlm(projected=True),
        Decoder(layer=lambda layers: max(1, layers * 18 // 28)),
    )
    length = "data"
    about = About(
        summary="Merges what stays still in windows of a video, keeps the attended; merges in the "
        "LLM.",
        paper="HoliTom, arXiv 2505.21334",
        licence="Written from method notes; the reference code is under Apache-2.0, none was "
        "copied.",
        ours={},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """The encoder's attention; inside the LLM that of the last prompt token."""
        if site.stage == "decoder":
            return (Signal.LAST_QUERY_ATTENTION,)
        return () if self.params.contextual == 1 else (SALIENCY[self.params.score],)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """`budget.keep` tokens at most before the LLM, exactly so many inside it."""
        if not budget.remove:
            return Reduction.none()
        if tokens.site.stage == "decoder":
            return halved(tokens, tokens.signal(Signal.LAST_QUERY_ATTENTION), budget.keep)
        rows = range(tokens.hidden.shape[0])
        return Reduction.ragged([self._video(tokens.of([row]), budget.keep) for row in rows])

    def _video(self, tokens: Tokens, keep: int) -> Reduction:
        asked = self.signals(tokens.site)
        score = tokens.signal(asked[0])[0].float() if asked else None
        alike = still(tokens, self.params.tau)
        found, saved = windows(alike)
        made = groups(tokens.hidden[0].float(), tokens.index[0], alike, found)
        retain = min(1.0, keep / max(1, tokens.count - saved))
        counts = fitted([group.natural(retain) for group in made], keep)
        if not any(counts):
            counts = [1, *counts[1:]]  # ours: rounding may leave nothing of a small still video
        parts = Parts(tokens.count)
        for group, count in zip(made, counts, strict=True):
            place_in(parts, group, count, score, self.params.contextual)
        return parts.reduction(tokens.hidden.dtype)


def still(tokens: Tokens, tau: float) -> Tensor:
    """Where a place is alike in a frame and in the next, `[T - 1, n]`; batch of one."""
    states = by_frame(tokens.hidden.float(), tokens)[0]
    there = by_frame(torch.ones_like(tokens.index), tokens)[0] > 0
    alike = cosine_similarity(states[:-1], states[1:], dim=-1)
    return (alike > tau) & there[:-1] & there[1:]
