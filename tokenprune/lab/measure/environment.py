"""What a measurement was made with, for records that others should be able to judge."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from tokenprune.interface.versions import installed

PACKAGES = ("tokenprune", "torch", "transformers", "timm", "triton", "numpy")


#: Facts that make a measurement another one.
FACTS = ("python", "system", "processor", "accelerator", "packages")


def describe_environment() -> dict[str, Any]:
    """Versions, processor, threads and accelerator, as plain JSON-able values."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": _accelerator(),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
    }


def environment_facts() -> dict[str, Any]:
    """Of `describe_environment`, what makes a measurement another one."""
    here = describe_environment()
    return {name: here[name] for name in FACTS}


def _accelerator() -> str | None:
    """The GPUs' name; where several are of different kinds, that of each."""
    if not torch.cuda.is_available():
        return None
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if len({*names}) == 1:
        return names[0]
    return ", ".join(f"cuda:{number} {name}" for number, name in enumerate(names))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
