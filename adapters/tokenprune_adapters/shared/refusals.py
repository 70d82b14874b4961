"""Refusals that all encoder families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.compiler import is_compiling

from tokenprune.errors import UnsupportedCallError, UnsupportedModelError


def require_exact(
    part: nn.Module, where: str, supported: tuple[str, ...], reasons: Mapping[str, str]
) -> None:
    """Refuse a part of a model whose exact class isn't one of `supported`.

    A subclass of a supported class is refused too, because it may have another forward.

    Args:
        part: the module.
        where: what to call its place.
        supported: full class names.
        reasons: by short class name, why a known class is refused.

    Raises:
        UnsupportedModelError: names the class, the reason and what is supported.
    """
    if f"{type(part).__module__}.{type(part).__qualname__}" in supported:
        return
    short = type(part).__name__
    reason = reasons.get(short, "its forward isn't known to the adapter")
    known = ", ".join(name.rsplit(".", 1)[1] for name in supported)
    raise UnsupportedModelError(
        f"'{short}' isn't supported: {reason}.", where=where, remedy=f"Supported here: {known}."
    )


def refuse_dropout(active: float, model: nn.Module, switch_off: str) -> None:
    """Refuse dropout on attention weights, which the pruned blocks don't compute.

    Args:
        active: its probability in this call.
        model: whose it is.
        switch_off: how it is switched off, as a sentence without its end.

    Raises:
        UnsupportedCallError: it is above 0.
    """
    if active > 0:
        raise UnsupportedCallError(
            "dropout on attention weights is on, and the pruned blocks have none.",
            where=type(model).__name__,
            remedy=f"{switch_off} or call eval().",
        )


_LIBRARIES = ("transformers.", "accelerate.", "deepspeed.", "torch.")
"""Modules whose hooks capture or move tensors; what the halves of a block call is hooked, too."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refuse_unrun(part: nn.Module, block: nn.Module) -> None:
    """Refuse what a user hung on a part that a block's halves don't call, as it would never run.

    A compiled block isn't looked into.

    Args:
        part: the attention of a block; its projections are called.
        block: the block.

    Raises:
        UnsupportedCallError: a hook or a forward of the part's own.
    """
    if is_compiling():
        return
    own = part.__dict__.get("forward")
    if own is None and not any(part.__dict__[name] for name in _HOOKS):
        return
    hooks = [hook for name in _HOOKS for hook in part.__dict__[name].values()]
    if not all(of_library(hook) for hook in hooks):
        what = "a hook"
    elif own is not None and not _placed(part):
        what = "a forward of its own"
    else:
        return
    raise UnsupportedCallError(
        f"{what} is on the {type(part).__name__} of a block that a plan runs in two halves, so it "
        "would never run.",
        where=type(block).__name__,
        remedy="Put it on the block or on a projection, or detach the plan for this call.",
    )


def unhung(part: nn.Module) -> bool:
    """Whether nothing hangs on a part: neither a hook nor a forward of its own."""
    own = part.__dict__
    return "forward" not in own and not any(own[name] for name in _HOOKS)


def of_library(function: Callable[..., Any]) -> bool:
    """Whether a hook, or what an attention calls, is of a model library and not the user's."""
    name = getattr(getattr(function, "func", function), "__module__", None) or ""
    return f"{name}.".startswith(_LIBRARIES)


def _placed(part: nn.Module) -> bool:
    """Whether a part's own forward is accelerate's, around that of the class."""
    inner = getattr(part, "_old_forward", None)
    return getattr(inner, "__func__", None) is type(part).forward
