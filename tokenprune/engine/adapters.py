"""Find the adapter of a model among the installed ones."""

from __future__ import annotations

from torch import nn

from tokenprune.engine.wrappers import refuse_wrappers
from tokenprune.errors import UnknownNameError, UnsupportedModelError
from tokenprune.errors.names import suggestion
from tokenprune.errors.words import indefinite
from tokenprune.interface.adapter import Adapter, EncoderAdapter, MllmAdapter
from tokenprune.plugins.host import host

AnyAdapter = EncoderAdapter | MllmAdapter
REPR = 100
"""Characters of what was given in place of a model that a message shows."""


def choose_adapter(
    model: nn.Module, wanted: str | type[Adapter] | Adapter | None = None
) -> AnyAdapter:
    """The adapter named, or the one that serves the model's class.

    Raises:
        UnknownNameError: no adapter of that name is installed.
        UnsupportedModelError: none fits, the one that fits refuses a part of the model, the model
            is wrapped or compiled, or it is no loaded model at all.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"a plan is attached to a loaded model (a torch.nn.Module), not to {_called(model)}.",
            where="model",
            remedy="Attach to its .model."
            if isinstance(getattr(model, "model", None), nn.Module)
            else "Load the model first, as with from_pretrained().",
        )
    refuse_wrappers(model)
    if isinstance(wanted, EncoderAdapter | MllmAdapter):
        return wanted
    if isinstance(wanted, type) and issubclass(wanted, EncoderAdapter | MllmAdapter):
        return _asked_for(wanted, model)
    known: dict[str, type[AnyAdapter]] = {**host().mllms, **host().encoders}
    if isinstance(wanted, str):
        if wanted not in known:
            raise UnknownNameError(
                f"there is no adapter '{wanted}'.", remedy=suggestion(wanted, known)
            )
        return _asked_for(known[wanted], model)
    for adapter in known.values():
        if adapter.fits(model):
            return adapter(model)
    raise UnsupportedModelError(
        f"no adapter serves {type(model).__module__}.{type(model).__qualname__}.",
        remedy=_way_out(model, known),
    )


def _called(model: object) -> str:
    """What was given in place of a model, in a few words."""
    if isinstance(model, type):
        return f"the class {model.__name__}"
    said = repr(model)
    if isinstance(model, str):
        return said
    # the repr of a processor is its whole config
    return said if len(said) <= REPR and "\n" not in said else indefinite(type(model).__name__)


def _way_out(model: nn.Module, known: dict[str, type[AnyAdapter]]) -> str:
    """What to attach to instead of a model that no adapter serves."""
    part = _served_part(model)
    if part is not None:
        return f"Attach to its .{part}, which is a multimodal LLM that is served."
    claims = dict.fromkeys(claim for one in host().mllms.values() for claim in one.claims)
    named = (claim.rpartition(".") for claim in claims)
    whole = [name for module, _, name in named if module == type(model).__module__]
    if whole:
        return f"Load and attach to the whole model: {' or '.join(whole)}."
    return f"Supported: {supported(known)}. Another family needs an adapter plugin."


def _served_part(model: nn.Module) -> str | None:
    """Attribute of a model that holds a multimodal LLM, as one that also speaks has."""
    mllms = host().mllms.values()
    served = (name for name, part in model.named_children() if any(m.fits(part) for m in mllms))
    return next(served, None)


def _asked_for(adapter: type[AnyAdapter], model: nn.Module) -> AnyAdapter:
    """An adapter that the user names, for a model that may be of another family.

    Raises:
        UnsupportedModelError: the adapter refuses the model, or misses a part of it.
    """
    try:
        return adapter(model)
    except AttributeError as error:
        if adapter.fits(model):  # a fault of the adapter
            raise
        raise UnsupportedModelError(
            f"the adapter '{adapter.name}' doesn't fit {type(model).__qualname__}: {error}.",
            where="adapter",
            remedy=f"It serves {adapter.name} ({_classes(adapter)}); leave it out to have one "
            "found by the model's class.",
        ) from error


def choose_encoder(tower: nn.Module | None, named: str | None = None) -> EncoderAdapter:
    """The encoder adapter of an MLLM's vision tower.

    Args:
        tower: the tower.
        named: see `Tower.encoder`.

    Raises:
        UnsupportedModelError: none fits, or the MLLM's adapter names no tower.
    """
    if tower is None:
        raise UnsupportedModelError(
            "the adapter of this model doesn't follow tokens through its tower yet.",
            remedy="attach() with decoder stages works; what looks into the tower doesn't.",
        )
    known = host().encoders
    for name in known if named is None else (named,):
        if name in known and known[name].fits(tower):
            return known[name](tower)
    raise UnsupportedModelError(
        f"no adapter serves the vision tower {type(tower).__module__}.{type(tower).__qualname__}.",
        remedy=f"Supported: {supported(dict(host().encoders))}.",
    )


def supported(known: dict[str, type[AnyAdapter]]) -> str:
    """Names of adapters, for messages."""
    return ", ".join(known) or "nothing, because no adapter plugin loaded (see tokenprune plugins)"


def _classes(adapter: type[AnyAdapter]) -> str:
    return ", ".join(claim.rpartition(".")[2] for claim in adapter.claims)
