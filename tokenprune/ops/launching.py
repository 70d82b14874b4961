"""How large the programs of kernels are: a table that `benchmarks/gpu.sh --fill` measures.

A kernel asks under its name and what its best sizes depend on, for example the width of heads and
the bytes of a number; what the table doesn't name has the kernel's own sizes.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("launches.json")

Sizes = Mapping[str, int]
"""Constants of a kernel by name, `num_warps` and `num_stages` among them."""


def launch(kernel: str, own: Sizes) -> Sizes:
    """Sizes of the programs of a kernel.

    Args:
        kernel: its name, and what its sizes depend on.
        own: the kernel's own sizes, which the table may replace, all or some.
    """
    found = _table().get(kernel)
    return own if found is None else {**own, **found}


def ceil_div(count: int, size: int) -> int:
    """How many programs of `size` elements `count` elements take.

    In plain integers, as `padded` is: Triton's own functions of that kind take microseconds each,
    and an eager pass at batch 1 waits for every one of them.
    """
    return -(-count // size)


def padded(count: int, least: int = 1, most: int | None = None) -> int:
    """The power of two that `count` elements, one or more, fit in.

    Args:
        count: number of elements.
        least: the smallest answer, a power of two.
        most: the greatest answer, a power of two; a program then takes several turns.
    """
    size = max(least, 1 << (count - 1).bit_length())
    return size if most is None else min(size, most)


@contextmanager
def trying(kernel: str, sizes: Sizes) -> Iterator[None]:
    """Let a kernel have other sizes inside a `with` block, in all threads; for measuring them."""
    table = _table()
    before = table.get(kernel)
    table[kernel] = dict(sizes)
    try:
        yield
    finally:
        del table[kernel]
        if before is not None:
            table[kernel] = before


def fill(found: Mapping[str, Sizes]) -> None:
    """Write sizes into the table, beside those of other kernels; a kernel with none has its own."""
    table = _table()
    for kernel, sizes in found.items():
        table.pop(kernel, None)
        if sizes:
            table[kernel] = dict(sizes)
    text = json.dumps(dict(sorted(table.items())), indent=2)
    TABLE.write_text(text + "\n", encoding="utf-8")


@cache
def _table() -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found
