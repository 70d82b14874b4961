"""What is set on the modules of a model, so that leftovers can be named."""

from __future__ import annotations

from torch import nn

Footprint = dict[str, dict[str, object]]

#: What a module holds by name; what stands behind a name may change from call to call.
HELD = ("_parameters", "_buffers", "_modules")


def footprint(model: nn.Module) -> Footprint:
    """Attributes, overridden methods, hooks and buffers of every module, by its name."""
    return {name or "the model": _of(module) for name, module in model.named_modules()}


def changes(before: Footprint, after: Footprint) -> list[str]:
    """Sentences about what differs, module by module."""
    found = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, {}), after.get(name, {})
        for key in sorted({*old, *new}):
            if key not in old:
                found.append(f"{name} has a new '{key}'")
            elif key not in new:
                found.append(f"{name} lost '{key}'")
            elif old[key] != new[key]:
                found.append(f"'{key}' of {name} is another one")
    return found


def _of(module: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in vars(module).items():
        if key in HELD or key.endswith("_hooks"):
            found[key] = tuple(value or ())
        else:  # a value may change from call to call; a method that is overridden may not
            found[key] = id(value) if callable(value) else None
    return found
