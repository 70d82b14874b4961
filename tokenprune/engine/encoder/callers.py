"""A pruned encoder that turns out to be the tower of a multimodal LLM: refused with the way out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType

import torch
from torch import nn

from tokenprune.errors import UnsupportedCallError
from tokenprune.plugins.host import host


def refuse_inside(encoder: nn.Module, own: nn.Module | None) -> None:
    """Refuse a pass of an encoder whose caller is a multimodal LLM without a plan of its own.

    Its prompt has a place for every feature of the layer that it reads, which may be an earlier one
    than that behind which a plan restores its tokens. So it would fail over their number, or fill
    the places wrongly. Only the callers know that they hold the encoder. A compiled model isn't
    looked into.

    Args:
        encoder: the encoder.
        own: a multimodal LLM that has a plan and may share its encoder with others; None if the
            plan is the encoder's.

    Raises:
        UnsupportedCallError: naming the model to attach to.
    """
    if torch.compiler.is_compiling():
        return
    outermost = None
    for module in _callers():
        known = module is encoder or (own is not None and _akin(module, own))
        if not known and any(one.fits(module) for one in host().mllms.values()):
            outermost = module
    if outermost is not None:
        name = type(outermost).__name__
        raise UnsupportedCallError(
            f"this encoder runs inside of a {name}, whose prompt has a place for every feature of "
            "the layer that it reads, and the plan leaves fewer.",
            where=type(encoder).__name__,
            remedy=f"Detach, and attach the plan to the {name}."
            if own is None
            else f"Attach a plan to this {name}, too, or give it an encoder of its own.",
        )


def _akin(some: nn.Module, other: nn.Module) -> bool:
    """Whether one of two modules is the other, or inside of it."""
    return other in set(some.modules()) or some in set(other.modules())


def _callers() -> Iterator[nn.Module]:
    """The modules whose methods are running, from the inside to the outside, some more than once.

    Code of this kind is bound to its module by the name `self`. Other frames aren't read: before
    Python 3.13 a frame whose variables were read keeps them to its end, those deleted since, too.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        module = frame.f_locals.get("self") if _is_method(frame) else None
        if isinstance(module, nn.Module):
            yield module


def _is_method(frame: FrameType) -> bool:
    """Whether a method runs that a class of modules defines, or one that these inherit from."""
    if frame.f_code.co_varnames[:1] != ("self",):
        return False
    owner = frame.f_globals.get(frame.f_code.co_qualname.partition(".")[0])
    if not isinstance(owner, type):
        return False
    if issubclass(owner, nn.Module):
        return True
    return any(issubclass(one, nn.Module) for one in type.__subclasses__(owner))
