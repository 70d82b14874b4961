"""Notes on KV caches that follow what the caches' own methods do to their rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.cache_adapter import NOTE
from tokenprune_adapters.transformers.llm_names import PREALLOCATED

#: Methods that give the rows of a cache another order, or another number.
ROWS = ("reorder_cache", "batch_select_indices", "batch_repeat_interleave")

#: The methods by which a model adds to a cache: keys and values, keys of an
#: indexer, states of linear attention.
UPDATES = ("update", "update_indexer", "update_conv_state", "update_recurrent_state")

LENGTH = "get_seq_length"

OPEN = "open"


class Followed:
    """A method of one cache, behind which its note is brought in line.

    It stands among the cache's own attributes, so it is copied and pickled along with the cache.

    Args:
        cache: the cache.
        name: of the method.
    """

    def __init__(self, cache: Any, name: str) -> None:
        self.cache, self.name = cache, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method, then move the note's rows as it moved the cache's.

        Raises:
            UnsupportedCallError: see `_check_crop`.
        """
        note = getattr(self.cache, NOTE, None)
        given: Any = next(iter((*args, *kwargs.values())), None)
        if note is not None and self.name == "crop":
            self._check_crop(note, given)
        answer = getattr(type(self.cache), self.name)(self.cache, *args, **kwargs)
        if note is None:
            return answer
        if self.name == "reset" and not self.cache.get_seq_length():  # older ones fill with zeros
            note = None
        elif self.name == "batch_repeat_interleave":
            note = note.of_rows(torch.arange(note.rows, device="cpu").repeat_interleave(given))
        elif self.name in ROWS:
            note = note.of_rows(
                given if isinstance(given, Tensor) else torch.tensor(given, device="cpu")
            )
        setattr(self.cache, NOTE, note)
        if note is None:
            forget(self.cache)
        return answer

    def _check_crop(self, note: Any, given: int) -> None:
        """Refuse to cut a shortened cache where another thing would leave than the user counts.

        Raises:
            UnsupportedCallError: it is to be cut to a length, which is another in each layer, or
                more tokens of it are to leave than it holds, and fewer than the sequence has, or it
                is of fixed length.
        """
        if getattr(self.cache, PREALLOCATED, False):
            raise UnsupportedCallError(
                "a shortened cache of fixed length can't be cut.",
                where="cache.crop",
                remedy="Use a dynamic cache, the default.",
            )
        if given > 0:
            raise UnsupportedCallError(
                f"the layers of a shortened cache can't be cut to {given} tokens: each holds "
                "another number of them.",
                where="cache.crop",
                remedy="Say how many tokens leave at the end: crop(-n).",
            )
        held = getattr(type(self.cache), LENGTH)(self.cache)
        if held <= -given < held + note.lack:
            raise UnsupportedCallError(
                f"{-given} of {held + note.lack} tokens can't leave a cache that holds {held}: "
                "visual tokens among them are removed, and earlier ones would leave instead.",
                where="cache.crop",
                remedy="Crop no further than to the last picture, or empty it: reset().",
            )


class Refusing:
    """Stands for a noted cache's method that adds to it, and acts only where a plan heeds the note.

    It is copied and pickled along with the cache.

    Args:
        cache: the cache.
        name: of the method.
        gate: says under `OPEN` whether a plan heeds the note; one for all methods of a cache.
    """

    def __init__(self, cache: Any, name: str, gate: dict[str, bool]) -> None:
        self.cache, self.name, self.gate = cache, name, gate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse a model without the plan; a checkpointed layer runs again as it ran.

        Raises:
            UnsupportedCallError: no plan heeds the note, and no backward pass is running.
        """
        # a graph task runs in a backward pass only
        if self.gate[OPEN] or torch._C._current_graph_task_id() != -1:
            return getattr(type(self.cache), self.name)(self.cache, *args, **kwargs)
        raise UnsupportedCallError(
            "this KV cache was shortened by a plan, and the model that is called with it doesn't "
            "have that plan in force.",
            where="cache",
            remedy="Attach the plan for the whole conversation, or start again without the cache.",
        )


class Whole:
    """Stands for a noted cache's method that says its length: that of the unpruned sequence.

    So whoever counts places by it, as `generate`, counts those of the user's own sequence. The LLM,
    which runs while a plan heeds the note, and whoever asks about one layer, is told what is there.
    It is copied and pickled along with the cache.

    Args:
        cache: the cache.
        gate: see `Refusing`.
    """

    def __init__(self, cache: Any, gate: dict[str, bool]) -> None:
        self.cache, self.gate = cache, gate

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Tokens of the sequence in the cache, or of one layer."""
        held = getattr(type(self.cache), LENGTH)(self.cache, *args, **kwargs)
        note = getattr(self.cache, NOTE, None)
        if note is None or self.gate[OPEN] or args or kwargs or not held:
            return held
        return held + note.lack


def noted(cache: Any) -> Any:
    """Where a cache's note is: of a shallow copy, which shares its layers, at the original."""
    method = getattr(cache, ROWS[0], None)
    return method.cache if isinstance(method, Followed) else cache


def follow(cache: Any) -> None:
    """Let a cache's note follow the methods by which users and `generate` change its rows.

    Models that don't heed the note are refused from then on.
    """
    for name in (*ROWS, "reset", "crop"):
        if hasattr(type(cache), name):
            cache.__dict__.setdefault(name, Followed(cache, name))
    gate = {OPEN: False}
    for name in UPDATES:
        if hasattr(type(cache), name):
            cache.__dict__[name] = Refusing(cache, name, gate)
    if not getattr(cache, PREALLOCATED, False):
        cache.__dict__[LENGTH] = Whole(cache, gate)


def forget(cache: Any) -> None:
    """Serve every model again: the cache has no note any more."""
    for one in (cache, noted(cache)):
        for name in (*UPDATES, LENGTH):
            one.__dict__.pop(name, None)


@contextmanager
def heeded(cache: Any) -> Iterator[None]:
    """Let a model add to a noted cache, while a plan heeds the note.

    Nothing but a dictionary changes meanwhile, which a compiler can follow.
    """
    refusing = getattr(noted(cache), UPDATES[0], None)
    if not isinstance(refusing, Refusing):
        yield
        return
    before, refusing.gate[OPEN] = refusing.gate[OPEN], True
    try:
        yield
    finally:
        refusing.gate[OPEN] = before
