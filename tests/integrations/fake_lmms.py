"""As much of lmms-eval 0.7.3 as tokenprune's models touch, for suites without it."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import nn

LOGGED: list[dict[str, Any]] = []


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class TokenCounts:
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass
class GenerationResult:
    text: Any
    token_counts: TokenCounts | None = None


@dataclass
class Instance:
    arguments: tuple[Any, ...]

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


@dataclass
class CacheHook:
    seen: list[tuple[str, Any, str]] = field(default_factory=list)

    def add_partial(self, attr: str, req: Any, res: str) -> None:
        self.seen.append((attr, req, res))


class lmms:
    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook = CacheHook()
        self.task_dict: dict[str, Any] = {}

    @property
    def rank(self) -> int:
        return self._rank

    def clean(self) -> None:
        for name in [name for name, value in vars(self).items() if isinstance(value, nn.Module)]:
            delattr(self, name)
        gc.collect()


def log_metrics(**given: Any) -> None:
    LOGGED.append(given)


MODULES: dict[str, tuple[Any, ...]] = {
    "lmms_eval": (),
    "lmms_eval.api": (),
    "lmms_eval.api.instance": (GenerationResult, Instance, TokenCounts),
    "lmms_eval.api.model": (lmms,),
    "lmms_eval.models": (),
    "lmms_eval.models.registry_v2": (ModelManifest,),
    "lmms_eval.models.model_utils": (),
    "lmms_eval.models.model_utils.gen_metrics": (log_metrics,),
}


def modules() -> dict[str, ModuleType]:
    """The modules by name, for `sys.modules`."""
    found = {name: ModuleType(name) for name in MODULES}
    for name, members in MODULES.items():
        for member in members:
            setattr(found[name], member.__name__, member)
    return found
