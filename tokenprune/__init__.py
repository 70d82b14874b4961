"""Remove visual tokens from multimodal LLMs: typed plans, pluggable methods, honest numbers."""

from tokenprune.engine import Attachment, Report, attach
from tokenprune.errors import TokenpruneError
from tokenprune.interface.about import About
from tokenprune.interface.adapter import EncoderAdapter, EncoderSpec, MllmAdapter, MllmSpec
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.reduction import Reconstruction, Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget, PruningStrategy, ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Site, Tokens
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
