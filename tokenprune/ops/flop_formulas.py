"""Formulas for what torch's counter of floating-point operations leaves out.

As torch does, only products are counted: not what runs element by element, such as a softmax.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

Shape = torch.Size | tuple[int, ...]
Formula = Callable[..., int]

ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
)
"""The last isn't counted by every version of torch; of the others, 2.11 refuses grouped heads."""

PRODUCTS = ("_int_mm", "_weight_int8pack_mm", "_weight_int4pack_mm", "mv")
"""Products that torch's counter leaves out, of one form: a row of the first by every output."""

GROUPED = ("_grouped_mm", "_scaled_grouped_mm")
"""Products of experts, which it leaves out, too: groups of rows, each with a matrix of its own."""

FIRST, SECOND = 11, 13
"""Where `_transformer_encoder_layer_fwd` has the MLP's matrices, behind the number of heads."""


def attention_flops(query: Shape, key: Shape, value: Shape) -> int:
    """Operations of `softmax(q k^T) v`: both products, without discount for a causal mask.

    Args:
        query: `[B, H, Tq, d]`.
        key: `[B, H, Tk, d]`, or fewer heads, each for several of the query's.
        value: `[B, H, Tk, dv]`, of the key's heads.
    """
    batch, heads, queries, width = query
    keys, out_width = value[-2], value[-1]
    return 2 * batch * heads * queries * keys * (width + out_width)


def missing_formulas() -> dict[Any, Formula]:
    """Formulas of operators that this version of torch has and doesn't count, or not rightly."""
    known: dict[str, Formula] = {
        **dict.fromkeys(PRODUCTS, _product),
        **dict.fromkeys(GROUPED, _grouped),
        "addmv": _added_vector,
        "addbmm": _added_sum,
        "dot": _dot,
        "vdot": _dot,
        "linalg_solve_triangular": _triangle_solved,
        "_linalg_solve_ex": _solved,
        "_linalg_eigh": _turned,
        "_cdist_forward": _distances,
        "_euclidean_dist": _distances,
        "_native_multi_head_attention": _fused_attention,
        "_transformer_encoder_layer_fwd": _fused_layer,
        "mkldnn_rnn_layer": _recurrent_layer,
        "_cudnn_rnn": _recurrent_layers,
    }
    missing = {name: one for name, one in known.items() if _packet(name) not in flop_registry}
    found = {**dict.fromkeys(ATTENTION, _attention), **missing}
    return {_packet(name): one for name, one in found.items() if _packet(name) is not None}


def _packet(name: str) -> Any:
    return getattr(torch.ops.aten, name, None)


def _raw(formula: Formula) -> Formula:
    """Mark a formula that is given tensors, as torch reads it; the others are given shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return attention_flops(query, key, value)


def _product(rows: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Of `[..., K]` by a matrix or vector, however that is packed."""
    return 2 * math.prod(out_shape) * rows[-1]


def _added_vector(_: Shape, matrix: Shape, *__: Any, **___: Any) -> int:
    """Of a matrix by a vector, added to another one."""
    return 2 * math.prod(matrix)


def _added_sum(_: Shape, first: Shape, second: Shape, *__: Any, **___: Any) -> int:
    """Of matrices `[B, M, K]` by `[B, K, N]`, all added up."""
    return 2 * math.prod(first) * second[-1]


def _dot(first: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(first)


def _grouped(first: Shape, second: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Of rows `[M, K]` by matrices `[G, K, N]`, or other dimensions divided into groups.

    Groups of K, as in gradients of the matrices, share the sum among the outputs `[G, M, N]`.
    """
    shared = out_shape[0] if len(first) == len(second) == 2 else 1
    return 2 * math.prod(out_shape) * first[-1] // shared


def _triangle_solved(matrix: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Of a triangular system `[N, N]`, half of a product by it."""
    return math.prod(out_shape) * matrix[-1]


def _solved(matrix: Shape, *_: Any, out_shape: Sequence[Shape], **__: Any) -> int:
    """Of a system `[N, N]`: its factors, about 2 N^3 / 3, and two triangles solved.

    Source: Golub and Van Loan, Matrix Computations, algorithm 3.2.1 (LU).
    """
    return 2 * math.prod(matrix) * matrix[-1] // 3 + 2 * math.prod(out_shape[0]) * matrix[-1]


def _turned(matrix: Shape, *_: Any, **__: Any) -> int:
    """Of eigenvalues and vectors of a symmetric matrix `[N, N]`, about 9 N^3.

    Source: Golub and Van Loan, Matrix Computations, algorithm 8.3.3 (symmetric QR).
    """
    return 9 * math.prod(matrix) * matrix[-1]


def _distances(first: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Of rows `[..., P, D]` and `[..., R, D]`, as of their product.

    Torch takes one way for few rows and a product for many: a count mustn't jump between them.
    """
    return 2 * math.prod(out_shape) * first[-1]


@_raw
def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *_: Any, **__: Any
) -> int:
    """Of an attention with its four projections, `[B, T, width]`, in one operator."""
    rows, keys, values = _lengths(query), _lengths(key), _lengths(value)
    projected = 2 * width**2 * (2 * sum(rows) + sum(keys) + sum(values))
    return projected + sum(4 * width * T * S for T, S in zip(rows, keys, strict=True))


@_raw
def _fused_layer(states: Tensor, width: int, heads: int, *more: Any, **__: Any) -> int:
    """Of a whole layer of an encoder, `[B, T, width]`: attention and MLP in one operator."""
    mlp = 2 * sum(_lengths(states)) * int(more[FIRST].numel() + more[SECOND].numel())
    attended: int = _fused_attention(states, states, states, width, heads)
    return attended + mlp


def _lengths(states: Tensor) -> list[int]:
    """Tokens of every sample; of a nested tensor they differ, as padding is gone."""
    if states.is_nested:
        return [one.shape[0] for one in states.unbind()]
    return [states.shape[1]] * states.shape[0]


def _recurrent_layer(states: Shape, into: Shape, back: Shape, *_: Any, **__: Any) -> int:
    """Of one layer in one direction: every row by both matrices, of all gates at once."""
    return 2 * math.prod(states[:-1]) * (math.prod(into) + math.prod(back))


def _recurrent_layers(states: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """Of all layers: every row by every matrix; biases among the weights have one dimension."""
    return 2 * math.prod(states[:-1]) * sum(math.prod(one) for one in weights if len(one) == 2)
