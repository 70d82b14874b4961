"""The variants of EvoPrune that `benchmarks.defaults` compares, beside the other strategies."""

from __future__ import annotations

from typing import Any

Stage = dict[str, Any]

ABLATIONS: dict[str, dict[str, Any]] = {
    "evoprune": {},
    "without attention": {"attention": False},
    "without diversity": {"diversity_weight": 0.0},
    "similarity only": {"attention": False, "diversity_weight": 0.0},
}
ONE_CHANGE: dict[str, dict[str, Any]] = {
    "proportional off": {"proportional_attention": False},
    "metric keys": {"metric": "keys"},
    "K 4": {"neighbours": 4},
    "K 16": {"neighbours": 16},
    "tau 0.5": {"tau": 0.5},
    "tau 2": {"tau": 2.0},
    "tau auto": {"tau": "auto"},
    "lambda 0.25": {"diversity_weight": 0.25},
    "lambda 0.5": {"diversity_weight": 0.5},
    "lambda 2": {"diversity_weight": 2.0},
    "CTR 0.1": {"critical_token_ratio": 0.1},
    "CTR 0.5": {"critical_token_ratio": 0.5},
    "importance cls": {"importance": "cls"},
    "partition all": {"partition": "all"},
    "plain cosine": {"similarity": "plain"},
    "unweighted mean": {"size_weighted": False},
    "lambda 0.25, keys": {"diversity_weight": 0.25, "metric": "keys"},
}
#: What every variant of the search starts from; fixed, so that shipped defaults may change.
BASE: dict[str, Any] = {
    "critical_token_ratio": 0.25,
    "attention": True,
    "importance": "received",
    "diversity_weight": 1.0,
    "neighbours": 8,
    "tau": 1.0,
    "metric": "hidden",
    "similarity": "halved",
    "partition": "unprotected",
    "size_weighted": True,
    "proportional_attention": True,
}

#: The shipped defaults when protection was searched, and what may stand in place of each.
PROTECTING: dict[str, Any] = {
    **BASE,
    "similarity": "plain",
    "importance_per": "token",
    "protect": "step",
}
PROTECTION: dict[str, dict[str, Any]] = {
    "evoprune": {},
    "importance per patch": {"importance_per": "patch"},
    "protect forever": {"protect": "forever"},
    "per patch, forever": {"importance_per": "patch", "protect": "forever"},
    "without attention": {"attention": False},
}


def protection() -> dict[str, Stage]:
    """What is protected, and for how long: every row by name, an encoder stage without budget."""
    return {
        name: {"strategy": "evoprune", "schedule": "skip", "params": {**PROTECTING, **change}}
        for name, change in PROTECTION.items()
    }


def stages(last: int) -> dict[str, Stage]:
    """Every row by name: an encoder stage without its budget.

    Args:
        last: index of the last block that feeds what is read.
    """
    rows: dict[str, Stage] = {
        name: {"strategy": "evoprune", "schedule": "skip", "params": {**BASE, **change}}
        for name, change in {**ABLATIONS, **ONE_CHANGE}.items()
    }
    rows["first block 1"] = {**rows["evoprune"], "layers": [1, last]}
    rows["first block 2"] = {**rows["evoprune"], "layers": [2, last]}
    rows["tome"] = {"strategy": "tome", "schedule": "skip"}
    rows["tome, every block"] = {"strategy": "tome", "schedule": "mean"}
    for name in ("random", "uniform", "fopru"):
        rows[name] = {"strategy": name, "schedule": "skip"}
    return rows
