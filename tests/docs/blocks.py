"""The blocks of code on the pages, and what it takes to run each of them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: The one mark of a block that no test runs: a line of its own in it, for readers, too.
MARK = "# not run here: "

#: How many of them there may be.
MARKED = 4


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        page: relative to the project.
        number: its place among the blocks of the page.
        language: as it is written behind the fence.
        code: what stands in it, without the indentation of the fence.
    """

    page: str
    number: int
    language: str
    code: str

    @property
    def marked(self) -> bool:
        return any(line.startswith(MARK) for line in self.code.splitlines())

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block as words; variables and redirections are left as text."""
        joined = re.sub(r"\\\n\s*", " ", self.code)
        lines = [line for line in joined.splitlines() if line.strip() and line[0] != "#"]
        parts = [part for line in lines for part in re.split(r" && ", line)]
        return [shlex.split(part, comments=True) for part in parts]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^( *)```([\w-]*)[^\n`]*\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    name = str(page.relative_to(ROOT))
    return [
        Block(name, number, language, re.sub(rf"^{indent}", "", code, flags=re.MULTILINE))
        for number, (indent, language, code) in enumerate(found)
    ]


ALL = [block for page in PAGES for block in blocks(page)]


def of(*languages: str) -> list[Block]:
    """The blocks of some languages that are run."""
    return [block for block in ALL if block.language in languages and not block.marked]


def name(block: Block) -> str:
    return f"{block.page}-{block.number}"
