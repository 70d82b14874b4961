"""Lean forwards over the parameters of the transformers model, equal to its own to rounding.

They exist because training wants what the library's forward does not offer: a subset of the
patches from the first block on, linear token maps between blocks, and many questions that share
one image prefix. Weights come as a dictionary, so one cast to bfloat16 serves a whole step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprune.reference.scene import PATCH
from training.reference_model.model import LM_BLOCKS, LM_HEADS, TOWER_BLOCKS, TOWER_HEADS

Weights = Mapping[str, Tensor]

TOWER = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
LM = "model.language_model."


class TokenMap(Protocol):
    """What happens to the patch tokens before a block: a linear map and the surviving patches."""

    def __call__(self, tokens: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[B, K, D]` tokens of patches `[B, K]` to `[B, M, D]` tokens of patches `[B, M]`."""


@dataclass(frozen=True)
class TowerOutput:
    """What the tower gives.

    Attributes:
        patches: `[B, M, D]` hidden states of the feature layer, without CLS.
        index: `[B, M]` patch numbers of those tokens.
        cls: `[B, D]` CLS token at the feature layer.
        pooled: `[B, D]` CLS token after the last block and norm.
        attention: `[B, H, 1 + M, 1 + M]` weights of the block that makes the feature layer.
    """

    patches: Tensor
    index: Tensor
    cls: Tensor
    pooled: Tensor
    attention: Tensor


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), w[name + ".weight"], w[name + ".bias"], 1e-5)


def _heads(x: Tensor, heads: int) -> Tensor:
    """`[B, T, D]` to `[B * H, T, D / H]`."""
    batch, length, width = x.shape
    x = x.view(batch, length, heads, width // heads).transpose(1, 2)
    return x.reshape(batch * heads, length, width // heads)


def _merge_heads(x: Tensor, heads: int) -> Tensor:
    """`[B * H, T, D / H]` to `[B, T, D]`."""
    rows, length, width = x.shape
    x = x.view(rows // heads, heads, length, width).transpose(1, 2)
    return x.reshape(rows // heads, length, heads * width)


def patchify(images: Tensor) -> Tensor:
    """`[B, 3, 112, 112]` to flattened patches `[B, 196, 3 * 8 * 8]` in row-major order."""
    return F.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


def embed_patches(w: Weights, pixels: Tensor, index: Tensor) -> Tensor:
    """Embed patches `index [B, K]` of `pixels [B, 196, P]` behind CLS: `[B, 1 + K, D]`."""
    stem = TOWER + "embeddings."
    kernel = w[stem + "patch_embedding.weight"].flatten(1)
    position = w[stem + "position_embedding.weight"]
    chosen = pixels.gather(1, index.unsqueeze(-1).expand(-1, -1, pixels.shape[-1]))
    patches = F.linear(chosen, kernel) + position[1 + index]
    cls = (w[stem + "class_embedding"] + position[0]).expand(len(pixels), 1, -1)
    return _norm(w, TOWER + "pre_layrnorm", torch.cat([cls, patches], 1))


def _tower_block(w: Weights, number: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """One block on `[B, T, D]`; also its attention weights `[B * H, T, T]`."""
    stem = f"{TOWER}encoder.layers.{number}."
    y = _norm(w, stem + "layer_norm1", x)
    q, k, v = (_heads(_linear(w, f"{stem}self_attn.{part}_proj", y), TOWER_HEADS) for part in "qkv")
    weights = torch.softmax(torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2)), -1)
    y = _merge_heads(torch.bmm(weights, v), TOWER_HEADS)
    x = x + _linear(w, stem + "self_attn.out_proj", y)
    y = F.gelu(_linear(w, stem + "mlp.fc1", _norm(w, stem + "layer_norm2", x)))
    return x + _linear(w, stem + "mlp.fc2", y), weights


def tower_forward(
    w: Weights,
    pixels: Tensor,
    index: Tensor,
    maps: Mapping[int, TokenMap] | None = None,
    last_block: bool = True,
) -> TowerOutput:
    """Run the tower on the patches `index [B, K]` of `pixels [B, 196, P]`.

    `maps` holds token maps by the number of the block before which they act.
    """
    x = embed_patches(w, pixels, index)
    attention = x.new_zeros(0)
    for number in range(TOWER_BLOCKS - 1):
        if maps and number in maps:
            patches, index = maps[number](x[:, 1:], index)
            x = torch.cat([x[:, :1], patches], 1)
        x, attention = _tower_block(w, number, x)
    final = _tower_block(w, TOWER_BLOCKS - 1, x)[0] if last_block else x
    return TowerOutput(
        patches=x[:, 1:],
        index=index,
        cls=x[:, 0],
        pooled=_norm(w, TOWER + "post_layernorm", final[:, 0]),
        attention=attention.view(len(x), TOWER_HEADS, *attention.shape[1:]),
    )


def project(w: Weights, patches: Tensor) -> Tensor:
    """Tower features `[B, M, D]` to language model inputs `[B, M, D]`."""
    return _linear(w, PROJECTOR + "linear_2", F.gelu(_linear(w, PROJECTOR + "linear_1", patches)))


def _rms(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), w[name + ".weight"], 1e-6)


def rotary(positions: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[B * H, T, width]` for positions `[B, T]`."""
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle = positions.float().unsqueeze(-1) * frequency
    angle = torch.cat([angle, angle], -1).repeat_interleave(LM_HEADS, 0)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


def lm_forward(
    w: Weights, x: Tensor, positions: Tensor, bias: Tensor, taps: list[Tensor] | None = None
) -> Tensor:
    """Hidden states of inputs `[B, T, D]` at `positions [B, T]` under an additive `bias [T, T]`.

    The output of every block is appended to `taps`, if given.
    """
    cos, sin = rotary(positions, x.shape[-1] // LM_HEADS, x.dtype)
    for number in range(LM_BLOCKS):
        stem = f"{LM}layers.{number}."
        y = _rms(w, stem + "input_layernorm", x)
        q, k, v = (
            _heads(_linear(w, f"{stem}self_attn.{part}_proj", y), LM_HEADS) for part in "qkv"
        )
        q, k = _turn(q * q.shape[-1] ** -0.5, cos, sin), _turn(k, cos, sin)
        weights = torch.softmax(torch.baddbmm(bias, q, k.transpose(1, 2)), -1)
        x = x + _linear(w, stem + "self_attn.o_proj", _merge_heads(torch.bmm(weights, v), LM_HEADS))
        y = _rms(w, stem + "post_attention_layernorm", x)
        y = F.silu(_linear(w, stem + "mlp.gate_proj", y)) * _linear(w, stem + "mlp.up_proj", y)
        x = x + _linear(w, stem + "mlp.down_proj", y)
        if taps is not None:
            taps.append(x)
    return _rms(w, LM + "norm", x)


def logits(w: Weights, hidden: Tensor) -> Tensor:
    """Next-word logits `[..., V]` of hidden states, with the tied embedding."""
    return F.linear(hidden, w[LM + "embed_tokens.weight"])


def question_bias(prefix: int, questions: int, length: int, dtype: torch.dtype) -> Tensor:
    """Additive bias `[T, T]`: a causal prefix, then questions that see it and themselves."""
    total = prefix + questions * length
    block = torch.full((total,), -1)
    block[prefix:] = torch.arange(questions).repeat_interleave(length)
    order = torch.arange(total)
    seen = (order[:, None] >= order) & ((block == -1) | (block[:, None] == block))
    return torch.zeros(total, total, dtype=dtype).masked_fill(~seen, -1e4)


def answer_questions(
    w: Weights, visual: Tensor, visual_position: Tensor, words: Tensor, text_start: Tensor
) -> Tensor:
    """Hidden states `[B, Q, L, D]` of questions that share one image.

    Args:
        w: weights.
        visual: `[B, M, D]` projected tokens.
        visual_position: `[B, M]` position ids of those tokens (`<bos>` has 0).
        words: `[B, Q, L]` word ids, right-padded.
        text_start: `[B]` position id of every question's first word.
    """
    batch, questions, length = words.shape
    table = w[LM + "embed_tokens.weight"]
    bos = table[torch.ones(batch, 1, dtype=torch.long)]
    text = table[words].flatten(1, 2)
    inputs = torch.cat([bos, visual, text], 1)
    text_position = (text_start[:, None, None] + torch.arange(length)).expand(-1, questions, -1)
    positions = torch.cat(
        [torch.zeros(batch, 1, dtype=torch.long), visual_position, text_position.flatten(1)], 1
    )
    bias = question_bias(1 + visual.shape[1], questions, length, inputs.dtype)
    hidden = lm_forward(w, inputs, positions, bias)
    return hidden[:, 1 + visual.shape[1] :].reshape(batch, questions, length, -1)
