"""Seeded damage to inputs that were good, and what a reader may answer to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tokenprune.errors import TokenpruneError
from tokenprune.errors.errors import LONGEST

#: What has broken readers of text: nesting, numbers, ends, references, names.
TOKENS: tuple[bytes, ...] = (
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"- " * 500, b"? ", b"|", b">-", b"#", b"%YAML 9"),
    *(b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\r", b"\r\n", b"\t"),
    *(b"\\ud800", b"\\u0000", b"\x1b[31m", b"\xe2\x80\xae", b"[/]", b"[red]"),
    *(b"1e999", b"-1e999", b"NaN", b".nan", b"Infinity", b".inf", b"0x" + b"f" * 5000, b"9" * 5000),
    *(b"1:2:3:4", b"0b1", b"0o7", b"1_000", b"2024-13-45", b"true", b"null", b"~", b"''", b'""'),
    *(b"&a [*a]", b"*a", b"<<: *a", b"<<: [", b"!!python/object:os.system ls", b"!!binary x"),
    *(b"!!set", b"!!timestamp 1", b"!!int x", b"!!float x", b": ", b", ", b"x" * 5000, b"../" * 50),
    *(b"/dev/zero", b"/proc/self/mem", b"a" * 300 + b".png", b"file,class_index\n", b'"', b"'"),
)

#: Letters of a whole message: place, problem and remedy, and what stands between them.
MESSAGE = 3 * LONGEST + 200


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """The input with one to four pieces of damage."""
    data = bytearray(good)
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 40))
        kind = int(rng.integers(7))
        if kind == 0:
            data[at:at] = TOKENS[int(rng.integers(len(TOKENS)))]
        elif kind == 1:
            data[at : at + length] = TOKENS[int(rng.integers(len(TOKENS)))]
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        elif kind == 4:
            data[at : at + length] = rng.bytes(min(length, len(data) - at))
        elif kind == 5 and data:
            data[at % len(data)] ^= 1 << int(rng.integers(8))
        elif len(data) > 4:
            del data[at:]
    return bytes(data)


def inputs(goods: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """So many damaged inputs, the same ones for a seed."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield mutated(goods[number % len(goods)], rng)


def refused_in_words(read: Callable[[], object], given: bytes) -> bool:
    """Whether the reader refused an input; whatever isn't in words fails the test.

    Args:
        read: reads it.
        given: shown if the reader raises anything else.
    """
    try:
        read()
    except TokenpruneError as error:
        if not error.message.strip() or len(str(error)) > MESSAGE:
            raise AssertionError(f"{len(str(error))} letters: {error!s:.200}") from error
        return True
    except (Exception, SystemExit) as error:
        raise AssertionError(
            f"{type(error).__name__}: {error!s:.200} for {given[:600]!r}"
        ) from error
    return False
