"""The modes in which a pass through a tower runs, and what looks at its operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn, overrides
from torch._C import _len_torch_dispatch_stack
from torch.utils._device import DeviceContext

from tokenprune.ops.dispatch import asked

_cuda: Any = torch.backends.cuda
_cudnn: Any = torch.backends.cudnn
_function_modes: Callable[[], list[object]] = overrides._get_current_function_mode_stack
_hooked: Callable[[], bool] = nn.modules.module._has_any_global_hook


def modes(device: torch.device) -> tuple[object, ...]:
    """The modes that decide what a pass launches on a device."""
    kind = device.type
    cast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
    deterministic = torch.are_deterministic_algorithms_enabled()
    inference = torch.is_inference_mode_enabled()
    return cast, deterministic, inference, torch.get_default_dtype(), asked(), *_kernels()


def _kernels() -> tuple[object, ...]:
    """How precisely kernels multiply float32, and which of them compute attention."""
    return (
        _cuda.matmul.fp32_precision,
        _cudnn.conv.fp32_precision,
        _cuda.flash_sdp_enabled(),
        _cuda.mem_efficient_sdp_enabled(),
        _cuda.math_sdp_enabled(),
        _cuda.cudnn_sdp_enabled(),
    )


def observed() -> str:
    """Why a pass has to run as usual here: something looks at its operations; empty if nothing."""
    if _len_torch_dispatch_stack():
        return "its operations are counted or changed by a torch mode"
    if any(not isinstance(one, DeviceContext) for one in _function_modes()):
        return "its operations are changed by a torch mode"
    if _hooked():
        return "hooks for all modules are registered"
    return ""
