"""Remove visual tokens from multimodal LLMs: typed plans, pluggable methods, honest numbers."""

from tokenprune.adapter import EncoderAdapter, EncoderSpec, MllmAdapter, MllmSpec
from tokenprune.engine import Attachment, Report, attach
from tokenprune.errors import TokenpruneError
from tokenprune.hookspecs import hookimpl
from tokenprune.plan import Plan, dump_plan, load_plan
from tokenprune.reduction import Reconstruction, Reduction
from tokenprune.strategy import Budget, PruningStrategy, ScoreStrategy, StrategyParams
from tokenprune.tokens import Signal, Site, Tokens
from tokenprune.trace import ImageTrace, Trace, TraceStep

__all__ = [
    "Attachment",
    "Budget",
    "EncoderAdapter",
    "EncoderSpec",
    "ImageTrace",
    "MllmAdapter",
    "MllmSpec",
    "Plan",
    "PruningStrategy",
    "Reconstruction",
    "Reduction",
    "Report",
    "ScoreStrategy",
    "Signal",
    "Site",
    "StrategyParams",
    "TokenpruneError",
    "Tokens",
    "Trace",
    "TraceStep",
    "attach",
    "dump_plan",
    "hookimpl",
    "load_plan",
]
