"""Functions of the signals that an LLM has, by slot of the sequence in front of the layer."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from tokenprune.interface.signals.views import LayerAttention, PromptText


def last_query(view: LayerAttention) -> Tensor:
    """Head mean of the last prompt token's softmax row, `[B, T]`."""
    weights, _ = view.rows(view.text.last[:, None])
    return weights.mean(dim=1)[:, 0]


def last_query_unrotated(view: LayerAttention) -> Tensor:
    """The same without rotary embeddings, `[B, T]`."""
    return last_query(view.unrotated)


def last_query_among_visual(view: LayerAttention) -> Tensor:
    """The same with a softmax over visual tokens alone, `[B, T]`; 0 for others."""
    plain = view.unrotated
    weights, _ = plain.rows(plain.text.last[:, None], among=plain.text.visual)
    return weights.mean(dim=1)[:, 0]


def question_max(view: LayerAttention) -> Tensor:
    """Largest weight from the question, over heads and queries, `[B, T]`."""
    return view.from_question.most


def question_mean(view: LayerAttention) -> Tensor:
    """Mean weight from the question, `[B, T]`.

    The mean is over heads and over those of the queries that may see the token, so that tokens
    late in the sequence aren't taken for unimportant.
    """
    got = view.from_question
    return got.total / got.able.clamp(min=1)


def prompt_mean(view: LayerAttention) -> Tensor:
    """Mean weight from all tokens of the prompt, `[B, T]`, with a sum of 1 over T."""
    asking = view.text.prompt
    total = view.received(asking).total
    return total / asking.to(total.device).sum(dim=1, keepdim=True).clamp(min=1)


def text_rows(view: LayerAttention) -> Tensor:
    """Head mean of the text tokens' softmax rows, `[B, S, T]`, 0 for padding."""
    order, real = view.text.slots
    weights, _ = view.rows(order)
    return weights.mean(dim=1).masked_fill(~real.to(weights.device)[..., None], 0)


def text_rows_by_head(view: LayerAttention) -> Tensor:
    """The text tokens' softmax rows of every head, `[B, S, H, T]`, 0 for padding."""
    order, real = view.text.slots
    weights, _ = view.rows(order)
    lost = ~real.to(weights.device)[:, :, None, None]
    return weights.transpose(1, 2).masked_fill(lost, 0)


def text_rotation(view: LayerAttention) -> Tensor:
    """Logits of ones, rotated, of the text tokens with all tokens, `[B, S, T]`, 0 for padding."""
    ones = replace(view, rotation="ones")
    query, key = ones.query[:, 0].float(), ones.key[:, 0].float()
    logits = view.text.pick(query) @ key.transpose(1, 2)
    return logits * float(query.shape[-1] ** -0.5)


def key_length(view: LayerAttention) -> Tensor:
    """L1 norm of every token's keys, all heads together, `[B, T]`.

    It changes with the angle of rotation, so positions are counted from the prompt's first token.
    """
    return view.counted.key.float().abs().sum(dim=(1, 3))


def text_key_length(view: LayerAttention) -> Tensor:
    """The same of the text, `[B, S]`."""
    return view.text.pick(key_length(view))


def text_states(view: PromptText) -> Tensor:
    """States of the text, `[B, S, D]`."""
    return view.pick(view.hidden)


def text_place(view: PromptText) -> Tensor:
    """1 behind the last visual token, 0 before it, -1 for padding, `[B, S]`."""
    return view.pick(view.behind.long(), padding=-1).to(view.hidden.device)
