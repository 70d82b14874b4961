"""Hold an adapter to the contract, on a model of its family.

The model should be small, with random weights, and on the CPU. Checks run on a copy of it, whose
parameters are shaken: fresh biases are zero and norms one, which hides mistakes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tokenprune.errors import TokenpruneError
from tokenprune.interface.adapter import Adapter, EncoderAdapter, MllmAdapter
from tokenprune.testing import encoders, mllms
from tokenprune.testing.mllm_subject import MllmSubject
from tokenprune.testing.record import Report, Row

SHAKEN = 0.05
"""How far parameters are shaken, as a share of a normal number (ours)."""
FIRST = "claims"
"""If this one fails, the others aren't tried."""

SubjectT = TypeVar("SubjectT")


def check_encoder_adapter(
    kind: type[EncoderAdapter], model: nn.Module, call: Callable[[nn.Module], Tensor]
) -> Report:
    """Hold the adapter of a vision encoder to what every one must fulfil.

    Args:
        kind: the adapter's class; it need not be registered.
        model: of its family.
        call: runs the model, or a copy of it, on at least two pictures -> what it puts out.

    Returns:
        One row for each demand. `require()` raises if a row fails.
    """

    def subject(own: nn.Module) -> encoders.EncoderSubject:
        return encoders.EncoderSubject(kind(own), own, call)

    return _report(kind, model, encoders.CHECKS, subject)


def check_mllm_adapter(
    kind: type[MllmAdapter], model: nn.Module, prompts: Sequence[Mapping[str, Any]]
) -> Report:
    """Hold the adapter of a multimodal LLM to what every one must fulfil.

    A shortened run is compared with the plain model on the whole prompt, where the removed tokens
    are hidden in the masks of the layers.

    Args:
        kind: the adapter's class; it need not be registered.
        model: of its family; its outputs have `logits`.
        prompts: keyword arguments of the model, of one prompt each, without padding: with pictures
            of two sizes where the family has them, and several pictures in one of them.

    Returns:
        One row for each demand. `require()` raises if a row fails.
    """

    def subject(own: nn.Module) -> MllmSubject:
        return MllmSubject(kind(own), own, prompts)

    return _report(kind, model, mllms.CHECKS, subject)


def _report(
    kind: type[Adapter],
    model: nn.Module,
    checks: Mapping[str, Callable[[SubjectT], str]],
    made: Callable[[nn.Module], SubjectT],
) -> Report:
    demand = "the model's class is claimed by its full name, and the adapter takes the model"
    own, fault = _shaken(model), ""
    if not kind.fits(own):
        named = f"{type(own).__module__}.{type(own).__qualname__}"
        fault = f"doesn't claim {named}, but {', '.join(kind.claims)}"
        return Report(kind.name, [Row(FIRST, "model", demand, "fail", fault)])
    try:
        subject = made(own)
    except TokenpruneError as error:
        return Report(kind.name, [Row(FIRST, "model", demand, "fail", error.message)])
    rows = [Row(FIRST, "model", demand, "pass")]
    with torch.no_grad():
        rows += [Row.of(key, "model", check, subject) for key, check in checks.items()]
    return Report(kind.name, rows)


def _shaken(model: nn.Module) -> nn.Module:
    own = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in own.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(SHAKEN * noise.to(parameter))
    return own
