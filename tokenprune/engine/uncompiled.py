"""What a compiled model runs as it stands; importing this module imports the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from tokenprune.engine.answered import answered

_Function = TypeVar("_Function", bound=Callable[..., object])
_uncompiled: Callable[[_Function], _Function] = torch.compiler.disable

# a compiled model breaks its graph here: plugins may do anything
answered_uncompiled = _uncompiled(answered)
