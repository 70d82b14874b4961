"""Arguments of a call by name, however they were passed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from tokenprune.interface.calls import Arguments, Written


@functools.cache
def signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters of a class's method by name, without the first; looked up once.

    Every block and layer of a model is asked, and few of them are of classes of their own.
    """
    return inspect.signature(MethodType(function, object())).parameters


@functools.cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a class's method that can be given by position, in order, without the first."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # asked anew, since compilers trace this, and can't trace what `signature` does
    named = inspect.signature(function).parameters.values()
    return tuple(one.name for one in named if one.kind in kinds)[1:]


def required(function: Callable[..., Any], name: str) -> bool:
    """Whether a method has an argument of that name that has to be given."""
    found = signature(function).get(name)
    return found is not None and found.default is inspect.Parameter.empty


def named(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Arguments) -> dict[str, Any]:
    """All arguments of a call by name.

    Args:
        function: the method, taken from the class.
        args: positional arguments, without `self`.
        kwargs: keyword arguments.
    """
    if not args:
        return dict(kwargs)
    return {**dict(zip(parameters(function), args, strict=False)), **kwargs}


def replaced(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Arguments,
    new: Mapping[str, Any],
) -> Written:
    """A call's arguments with new values, each passed as it was; new names go by keyword.

    Args:
        function: the method, taken from the class.
        args: positional arguments, without `self`.
        kwargs: keyword arguments.
        new: new values by name.
    """
    if not args:
        return args, {**kwargs, **new}
    names = parameters(function)[: len(args)]
    placed = [new.get(name, value) for name, value in zip(names, args, strict=False)]
    rest = {name: value for name, value in new.items() if name not in names}
    return (*placed, *args[len(names) :]), {**kwargs, **rest}
