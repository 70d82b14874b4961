"""The strategy `vscan`."""

from __future__ import annotations

from math import floor

import torch

from tokenprune.interface.about import About
from tokenprune.interface.placement import Decoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget, PruningStrategy
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import topk_indices
from tokenprune_strategies.shared.joining import most_similar
from tokenprune_strategies.shared.saliency import SALIENCY
from tokenprune_strategies.shared.windows import windows_of
from tokenprune_strategies.vscan.params import OURS, VScanParams
from tokenprune_strategies.vscan.scan import local_scan, select


class VScan(PruningStrategy[VScanParams]):
    """Two stages, usable separately: scan and merge before the LLM, one pruning step inside it.

    Source: VScan (arXiv 2505.22654, sections 3 and 4) and notes on its official code. The budgets
    of both stages are coupled by `keep: {average: n}` at `pre_llm`; the paper keeps a third in the
    LLM. Selection and merging act on projected features, as in the code.
    """

    name = "vscan"
    Params = VScanParams
    stages = (
        PreLlm(projected=True, maps=True, positions="compact"),
        # the middle of the LLM: the paper's 16 of 32 and 14 of 28
        Decoder(layer=lambda layers: max(1, layers // 2), positions="compact"),
    )
    about = About(
        summary="Keeps what is important in windows and in the whole, merges the rest; prunes in "
        "mid-LLM.",
        paper="VScan, arXiv 2505.22654",
        licence="Written from method notes; the reference code is under the MIT licence, none was "
        "copied.",
        ours=OURS,
        borrowed={"window": "the code's", "rope_in_scoring": "the code's"},
    )

    def signals(self, site: Site) -> tuple[Signal, ...]:
        """Scores of a shallow and of the last used block; in the LLM, the row of the layer itself.

        `layer` K in the plan is the paper's k: K layers see what stage 1 left.
        """
        if site.stage == "decoder":
            plain = Signal.AHEAD_ATTENTION_UNROTATED
            return (Signal.AHEAD_ATTENTION if self.params.rope_in_scoring else plain,)
        score = SALIENCY[self.params.score]
        return score.at(self._shallow(site.layers)), score

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        """Keep exactly `budget.keep` tokens; before the LLM, merge the others into them."""
        if not budget.remove:
            return Reduction.none()
        if tokens.site.stage == "pre_llm":
            return self._scan_and_merge(tokens, budget.keep)
        (asked,) = self.signals(tokens.site)
        score = tokens.signal(asked)
        return Reduction.keep(topk_indices(score, budget.keep), tokens.count, score=score)

    def _scan_and_merge(self, tokens: Tokens, keep: int) -> Reduction:
        params = self.params
        shallow, deep = (tokens.signal(signal) for signal in self.signals(tokens.site))
        joined = params.border == "joined"
        window, windows = windows_of(tokens.position, tokens.grid, params.window, joined=joined)
        share = floor(keep * params.local + 1e-9)
        local = local_scan(shallow, window, windows, share, params.quota)
        kept = select(local, deep, keep)
        size = tokens.size
        return Reduction(
            anchor=kept,
            slot=most_similar(tokens.hidden, kept),
            weight=torch.ones_like(size) if params.merge_weight == "token" else size,
            score=torch.where(local, shallow, deep),
        )

    def _shallow(self, used: int) -> int:
        if self.params.shallow is not None:
            return self.params.shallow
        return max(0, floor(used / 4 + 0.5) - 1)
