"""Remove visual tokens from multimodal LLMs: typed plans, pluggable methods, honest numbers.

Names are imported when they are first used, so that `tokenprune --help` waits for no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenprune.engine.attach import attach
    from tokenprune.engine.attachment import Attachment, attached
    from tokenprune.engine.report import Report
    from tokenprune.errors import TokenpruneError
    from tokenprune.interface.about import About
    from tokenprune.interface.adapter import EncoderAdapter, MllmAdapter
    from tokenprune.interface.placement import Decoder, Encoder, PreLlm, Step
    from tokenprune.interface.reduction import Reconstruction, Reduction
    from tokenprune.interface.signals import Signal
    from tokenprune.interface.sites import Site
    from tokenprune.interface.specs import EncoderSpec, MllmSpec
    from tokenprune.interface.strategy import Budget, PruningStrategy, ScoreStrategy, StrategyParams
    from tokenprune.interface.tokens import Tokens
    from tokenprune.interface.trace import ImageTrace, Trace, TraceStep
    from tokenprune.plan import Plan, dump_plan, load_plan
    from tokenprune.plugins.hookspecs import hookimpl

__all__ = [
    "About",
    "Attachment",
    "Budget",
    "Decoder",
    "Encoder",
    "EncoderAdapter",
    "EncoderSpec",
    "ImageTrace",
    "MllmAdapter",
    "MllmSpec",
    "Plan",
    "PreLlm",
    "PruningStrategy",
    "Reconstruction",
    "Reduction",
    "Report",
    "ScoreStrategy",
    "Signal",
    "Site",
    "Step",
    "StrategyParams",
    "TokenpruneError",
    "Tokens",
    "Trace",
    "TraceStep",
    "attach",
    "attached",
    "dump_plan",
    "hookimpl",
    "load_plan",
]

_HOMES = {
    "tokenprune.engine.attach": ("attach",),
    "tokenprune.engine.attachment": ("Attachment", "attached"),
    "tokenprune.engine.report": ("Report",),
    "tokenprune.errors": ("TokenpruneError",),
    "tokenprune.interface.about": ("About",),
    "tokenprune.interface.adapter": ("EncoderAdapter", "MllmAdapter"),
    "tokenprune.interface.placement": ("Decoder", "Encoder", "PreLlm", "Step"),
    "tokenprune.interface.reduction": ("Reconstruction", "Reduction"),
    "tokenprune.interface.signals": ("Signal",),
    "tokenprune.interface.sites": ("Site",),
    "tokenprune.interface.specs": ("EncoderSpec", "MllmSpec"),
    "tokenprune.interface.strategy": (
        "Budget",
        "PruningStrategy",
        "ScoreStrategy",
        "StrategyParams",
    ),
    "tokenprune.interface.tokens": ("Tokens",),
    "tokenprune.interface.trace": ("ImageTrace", "Trace", "TraceStep"),
    "tokenprune.plan": ("Plan", "dump_plan", "load_plan"),
    "tokenprune.plugins.hookspecs": ("hookimpl",),
}
_ROOMS = ("engine", "errors", "interface", "ops", "plan", "plugins")

if not TYPE_CHECKING:  # type checkers read the imports above, and go on refusing other names

    def __getattr__(name: str) -> Any:
        """A public name from the module that defines it, or a room such as `tokenprune.ops`."""
        if name in _ROOMS:
            return import_module(f"{__name__}.{name}")
        for home, names in _HOMES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(home), name)
                return found
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

    def __dir__() -> list[str]:
        """With the names that weren't used yet."""
        return sorted({*globals(), *__all__, *_ROOMS})
