"""Which text tokens rate the visual ones, and how."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tokenprune.errors import LayerError, UnsupportedCallError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

RATERS = "sparsevlm.raters"
"""Rider `[B, N, S]`: which of the prompt's text tokens rate; the same for every visual token."""
TEXTS = "sparsevlm.texts"
"""Rider `[B, N]`: how many text tokens the prompt had then; the same for every visual token."""


def raters(visual: Tensor, text: Tensor, place: Tensor) -> Tensor:
    """The text tokens behind the image that visual tokens point at more than at the average one.

    `P = softmax over text of visual text^T`, without scaling, and its mean over visual tokens.

    Args:
        visual: `[B, N, D]`.
        text: `[B, S, D]`.
        place: `[B, S]`: 1 behind the last visual token, 0 before it, -1 for padding.

    Returns:
        `[B, S]` bool. Where no token is above the mean, the last one behind the image; where none
        is behind the image, the last of the prompt; none where a prompt has no text (ours).

    Raises:
        UnsupportedCallError: no prompt of the batch has text, as where all of it is labelled.
    """
    if not place.shape[1]:
        raise UnsupportedCallError(
            "the prompt has no text, and text is what rates visual tokens here.",
            where="labels",
            remedy="Leave a token of the prompt unlabelled, or use a strategy that reads no text.",
        )
    behind = place == 1
    asking = torch.where(behind.any(dim=1, keepdim=True), behind, place >= 0)
    logits = visual.float() @ text.float().transpose(1, 2)
    pointing = logits.masked_fill(~asking[:, None], -torch.inf).softmax(dim=-1).mean(dim=1)
    # NaN where a prompt has no text, which is above nothing
    mean = pointing.sum(dim=1, keepdim=True) / asking.sum(dim=1, keepdim=True)
    chosen = asking & (pointing > mean)
    number = torch.arange(place.shape[1], device=place.device)
    last = torch.where(asking, number, -1).amax(dim=1, keepdim=True)
    return torch.where(chosen.any(dim=1, keepdim=True), chosen, number == last)


def noted(tokens: Tokens) -> Tensor:
    """Those chosen in front of layer 0, `[B, S]` bool.

    By what is here in a plan that doesn't stand there, and where text has left since (ours).
    """
    place = tokens.signal(Signal.TEXT_PLACE)
    found = raters(tokens.hidden, tokens.signal(Signal.TEXT_STATES), place)
    before = tokens.riders.get(RATERS)
    if before is None:
        return found
    # which text tokens are left can't be told, so that their numbers mean others then
    same = tokens.riders[TEXTS][:, 0] == text_count(place)
    return torch.where(same[:, None], before[:, 0, : place.shape[1]], found)


def text_count(place: Tensor) -> Tensor:
    """How many text tokens `[B]` every prompt has, by their places `[B, S]`."""
    return (place >= 0).sum(dim=1)


def with_note(answer: Reduction, tokens: Tokens, chosen: Tensor) -> Reduction:
    """An answer that hands the raters `[B, S]` on to the next step."""
    count = text_count(tokens.signal(Signal.TEXT_PLACE))[:, None].expand(-1, tokens.count)
    note = chosen[:, None].expand(-1, tokens.count, -1)
    return replace(answer, riders={RATERS: note, TEXTS: count})


def require_layer(name: str, site: Site, budget: Budget) -> None:
    """Refuse to drop in front of layer 0, behind which no layer has looked yet.

    Raises:
        LayerError: naming the site.
    """
    if budget.remove and not site.layer:
        raise LayerError(
            f"'{name}' drops by the attention of the layer before.",
            where=str(site),
            remedy="Name layer 1 or a later one, or none.",
        )


def rated(weights: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the raters' rows: `[B, S, N]` and `[B, S]` -> `[B, N]`.

    Without raters all scores are 0, so the first tokens stay (ours).
    """
    share = chosen.float()[..., None]
    return (weights.float() * share).sum(dim=1) / share.sum(dim=1).clamp(min=1.0)
