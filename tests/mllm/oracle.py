"""What a pruned LLaVA must put out, computed one sample at a time from the plain model's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.models import IMAGE_TOKEN


@dataclass
class Sample:
    """One prompt after pruning in front of the LLM.

    Attributes:
        embeds: `[T', D]` what is left of it.
        place: `[T']` places in the unpruned prompt.
        visual: columns of `embeds` with visual tokens.
        length: tokens of the unpruned prompt.
    """

    embeds: Tensor
    place: Tensor
    visual: list[int] = field(default_factory=list)
    length: int = 0

    def grown(self, model: Any, tokens: Sequence[int]) -> Sample:
        """With text tokens behind it."""
        more = model.get_input_embeddings()(torch.tensor(list(tokens), dtype=torch.long))
        place = torch.arange(self.length, self.length + len(tokens))
        return Sample(
            torch.cat((self.embeds, more)),
            torch.cat((self.place, place)),
            self.visual,
            self.length + len(tokens),
        )


def sample(
    model: Any, ids: Sequence[int], pictures: Tensor, kept: Sequence[Sequence[int]]
) -> Sample:
    """A prompt (without padding) with its pictures, of which the tokens `kept` stay."""
    table, found = model.get_input_embeddings(), Sample(torch.empty(0), torch.empty(0))
    features = plain_features(model, pictures) if len(pictures) else []
    embeds, places, seen = [], [], 0
    for place, token in enumerate(ids):
        if token == IMAGE_TOKEN:
            picture, patch = divmod(seen, len(features[0]))
            seen += 1
            if patch not in kept[picture]:
                continue
            found.visual.append(len(embeds))
            embeds.append(features[picture][patch])
        else:
            embeds.append(table(torch.tensor(token)))
        places.append(place)
    return Sample(torch.stack(embeds), torch.tensor(places), found.visual, len(ids))


def plain_features(model: Any, pictures: Tensor) -> list[Tensor]:
    return list(model.model.get_image_features(pictures, return_dict=True).pooler_output)


Edit = Callable[[Tensor, list[int]], tuple[Tensor, list[int]]]


def run(
    model: Any,
    one: Sample,
    edits: dict[int, Edit] | None = None,
    compact: bool = False,
    words: dict[int, Sequence[int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits `[T'', V]` of what is left at the end and its places, layer by layer by hand.

    Args:
        model: the plain model, with SDPA.
        one: the prompt.
        edits: by layer, from the visual states `[N, D]` and their columns to those that go on.
        compact: renumber positions after each removal.
        words: by layer, places of text tokens that are dropped too.
    """
    language = model.model.language_model
    hidden, place, visual = one.embeds[None], one.place, list(one.visual)
    for number, layer in enumerate(language.layers):
        if edits and number in edits:
            states, stay = edits[number](hidden[0, visual], visual)
            text = [c for c in range(hidden.shape[1]) if c not in visual]
            hidden = hidden.clone()
            hidden[0, stay] = states
            columns = sorted(text + stay)
            visual = [columns.index(c) for c in stay]
            hidden, place = hidden[:, columns], place[columns]
        if words and number in words:
            columns = [c for c in range(len(place)) if int(place[c]) not in words[number]]
            visual = [columns.index(c) for c in visual]
            hidden, place = hidden[:, columns], place[columns]
        position = torch.arange(len(place)) if compact else place
        rows = language.rotary_emb(hidden, position_ids=position[None])
        hidden = layer(hidden, attention_mask=_causal(model, len(place)), position_embeddings=rows)
    return model.lm_head(language.norm(hidden))[0], place


def greedy(
    model: Any,
    one: Sample,
    steps: int,
    edits: dict[int, Edit] | None = None,
    compact: bool = False,
    words: dict[int, Sequence[int]] | None = None,
) -> list[int]:
    """Greedy tokens, without cache, the whole sequence at every step."""
    tokens: list[int] = []
    for _ in range(steps):
        logits, _ = run(model, one.grown(model, tokens), edits, compact, words)
        tokens.append(int(logits[-1].argmax()))
    return tokens


def dense_greedy(model: Any, call: dict[str, Tensor], steps: int) -> list[int]:
    """Greedy tokens of the model as it is, without cache, on a call of one sample."""
    tokens, call = [], dict(call)
    for _ in range(steps):
        with torch.no_grad():
            new = model(**call).logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(new))
        call["input_ids"] = torch.cat((call["input_ids"], new), dim=1)
        call["attention_mask"] = torch.ones_like(call["input_ids"])
    return tokens


def visual_columns(call: dict[str, Tensor]) -> list[int]:
    """Columns of the placeholders in a call of one sample."""
    return [c for c, token in enumerate(call["input_ids"][0].tolist()) if token == IMAGE_TOKEN]


def _causal(model: Any, count: int) -> Tensor:
    open_ = torch.ones(count, count, dtype=torch.bool).tril()
    return torch.zeros(1, 1, count, count).masked_fill(~open_, float("-inf"))


@contextmanager
def hidden_keys(model: Any, layer: int, columns: Sequence[int]) -> Iterator[None]:
    """Hide keys from all queries, from a layer on, through the layers' own additive masks."""

    def hide(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"].clone()
        mask[..., list(columns)] = torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask}

    layers = list(model.model.language_model.layers)[layer:]
    hooks = [one.register_forward_pre_hook(hide, with_kwargs=True) for one in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
