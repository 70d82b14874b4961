"""Where in an author's own code an exception was raised."""

from __future__ import annotations

import traceback
from pathlib import PurePath
from types import FrameType

#: Top-level packages whose frames say nothing of an author's code.
_FOREIGN = frozenset({"abc", "builtins", "pydantic", "tokenprune", "torch", "typing"})


def raised_at(error: BaseException, *kinds: type) -> str:
    """The innermost line of classes' own code that an exception came through.

    Own code is that of the packages that define the classes and their bases, without those of the
    framework and of torch.

    Args:
        error: an exception that was caught.
        *kinds: the classes, such as a strategy's.

    Returns:
        `my_package/method.py:13, in reduce`; empty if the exception came through no such line.
    """
    bases = {base for kind in kinds for base in kind.__mro__}
    own = {base.__module__.partition(".")[0] for base in bases} - _FOREIGN
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _module(frame).partition(".")[0] in own:
            found = f"{_file(frame)}:{line}, in {frame.f_code.co_name}"
    return found


def raised(error: BaseException, *kinds: type) -> str:
    """What an exception says of itself: its type, its place in classes' own code, its message.

    Args:
        error: an exception that was caught.
        *kinds: the classes, such as a strategy's.

    Returns:
        `raised ValueError (my_package/method.py:13, in reduce): no such head`.
    """
    place = raised_at(error, *kinds)
    return f"raised {type(error).__name__}{f' ({place})' if place else ''}: {error}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _file(frame: FrameType) -> str:
    """The file from its top-level package on, which is the same on every machine."""
    path = PurePath(frame.f_code.co_filename)
    folders = _module(frame).count(".") + (path.name == "__init__.py")
    return "/".join(path.parts[-1 - folders :])
