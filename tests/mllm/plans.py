"""Plans and stages that the tests of the MLLM side share."""

from __future__ import annotations

from typing import Any

KEPT = (0, 3, 4, 17, 35)


def plan(*stages: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"schema_version": 1, "stages": list(stages), **rest}


def pick(*index: int, at: str = "pre_llm", **rest: Any) -> dict[str, Any]:
    """A stage that keeps the tokens named of one image."""
    return {
        "at": at,
        "strategy": "t-pick",
        "keep": len(index),
        "params": {"index": list(index)},
        **rest,
    }


def fastv(layer: int = 2, keep: Any = 0.25) -> dict[str, Any]:
    return {"at": "decoder", "strategy": "fastv", "layer": layer, "keep": keep}


def tome(keep: int = 18) -> dict[str, Any]:
    return {"at": "encoder", "strategy": "tome", "keep": keep}


def drawn(keep: int = 9, at: str = "pre_llm", **rest: Any) -> dict[str, Any]:
    return {"at": at, "strategy": "random", "keep": keep, **rest}


def trimming(layer: int, keep: int, index: tuple[int, ...] = ()) -> dict[str, Any]:
    """A stage that also trims the caches of the layers before it."""
    params = {"index": list(index)}
    return {"at": "decoder", "strategy": "t-trim", "layer": layer, "keep": keep, "params": params}


COMBINATIONS = {
    "encoder": plan(tome()),
    "pre_llm": plan(drawn()),
    "decoder": plan(fastv()),
    "pyramid": plan(fastv(1, 18), fastv(2, 8), fastv(3, 2)),
    "all": plan(tome(), drawn(), fastv(2, 4)),
    "ragged": plan({"at": "pre_llm", "strategy": "t-ragged", "keep": 1.0}, fastv(2, 0.5)),
    "exit": plan({"at": "decoder", "strategy": "t-exit", "layer": 2, "keep": 0.5}),
    "merge": plan({"at": "decoder", "strategy": "t-pairs", "layer": 2, "keep": 0.5}),
    "first layer": plan(drawn(9, at="decoder", layer=0), fastv(2, 4)),
    "exits": plan(drawn(), {"at": "decoder", "strategy": "t-leave"}),
    "trim": plan(fastv(1, 9), trimming(3, 4)),
    "compact": plan(drawn(), fastv(2, 4), positions="compact"),
}
