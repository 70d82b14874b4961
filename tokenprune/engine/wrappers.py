"""Wrappers around a model, which are refused with the way to the model inside."""

from __future__ import annotations

from torch import nn

from tokenprune.errors import UnsupportedModelError

_UNSHARDED = "Attach to a model that isn't sharded."

# class -> package and remedy; by name, since the libraries may not be installed
_WRAPPERS = {
    "DistributedDataParallel": ("torch.nn.parallel", "Attach to its .module."),
    "DataParallel": ("torch.nn.parallel", "Attach to its .module."),
    "FullyShardedDataParallel": ("torch.distributed.fsdp", _UNSHARDED),
    "FSDPModule": ("torch.distributed.fsdp", _UNSHARDED),
    "PeftModel": ("peft", "Attach to its get_base_model()."),
    "PeftMixedModel": ("peft", "Attach to its get_base_model()."),
    "OptimizedModule": ("torch._dynamo", "Attach before compiling."),
    "ActivationWrapper": (
        "torch.distributed.algorithms._checkpoint.checkpoint_wrapper",
        "Attach to a model without activation checkpointing.",
    ),
}


def refuse_wrappers(model: nn.Module) -> None:
    """Refuse a model that another library wraps, or that is compiled, as a whole or in part.

    Raises:
        UnsupportedModelError: names the wrapper, its place and the way out.
    """
    fine = set[type]()  # most of a model's modules are of a few classes
    for place, module in model.named_modules():
        where = f"{type(model).__name__}, {place}" if place else ""
        for base in () if type(module) in fine else type(module).__mro__:
            remedy = _remedy(base)
            if remedy:
                raise UnsupportedModelError(
                    f"a model wrapped in {base.__name__} isn't served.", where=where, remedy=remedy
                )
        fine.add(type(module))
        if _compiled_in_place(module):
            raise UnsupportedModelError(
                f"this {type(module).__name__} is compiled already.",
                where=where,
                remedy="Attach before compiling.",
            )


def _remedy(base: type) -> str:
    package, remedy = _WRAPPERS.get(base.__name__, ("", ""))
    return remedy if package and f"{base.__module__}.".startswith(f"{package}.") else ""


def _compiled_in_place(module: nn.Module) -> bool:
    """Whether `module.compile()` was called, after which a call doesn't read `forward` afresh."""
    return getattr(module, "_compiled_call_impl", None) is not None
