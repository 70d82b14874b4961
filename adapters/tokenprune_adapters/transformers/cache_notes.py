"""Notes on KV caches that follow what the caches' own methods do to their rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.adapter import NOTE

#: Methods that give the rows of a cache another order, or another number.
ROWS = ("reorder_cache", "batch_select_indices", "batch_repeat_interleave")


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
            UnsupportedCallError: the cache is to be cut to a length, which is another in each of
                the layers of a shortened one.
        """
        note = getattr(self.cache, NOTE, None)
        given: Any = next(iter((*args, *kwargs.values())), None)
        if note is not None and self.name == "crop" and given > 0:
            raise UnsupportedCallError(
                f"the layers of a shortened cache can't be cut to {given} tokens: each holds "
                "another number of them.",
                where="cache.crop",
                remedy="Say how many tokens leave at the end: crop(-n).",
            )
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
        return answer


def noted(cache: Any) -> Any:
    """Where a cache's note is: of a shallow copy, which shares its layers, at the original."""
    method = getattr(cache, "__dict__", {}).get(ROWS[0])
    return method.cache if isinstance(method, Followed) else cache


def follow(cache: Any) -> None:
    """Let a cache's note follow the methods by which users and `generate` change its rows."""
    for name in (*ROWS, "reset", "crop"):
        if hasattr(type(cache), name):
            cache.__dict__.setdefault(name, Followed(cache, name))
