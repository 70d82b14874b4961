"""Where the name of a plan may be broken into lines: behind separators, never inside of words."""

from __future__ import annotations

import re

#: Longer names are broken in tables of terminals, where a table can be (ours).
LONG = 26


def parts_of(name: str) -> list[str]:
    """The pieces of a name between which a line may break."""
    return re.findall(r"[^-_=,;:/+. ]*[-_=,;:/+. ]*", name)[:-1] or [name]


def broken(name: str) -> str:
    """A name in lines of at most `LONG` letters, as far as its pieces allow it."""
    lines = [""]
    for part in parts_of(name):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > LONG:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip(" ") for line in lines)
