"""What the LLM's wing runs as it stands, also in a compiled model; it imports the compiler."""

from __future__ import annotations

from tokenprune.engine.llm.entry import lay_out
from tokenprune.engine.uncompiled import uncompiled

# where tokens stand decides how many slots there are: a graph would break at every such number
lay_out_uncompiled = uncompiled(lay_out)
