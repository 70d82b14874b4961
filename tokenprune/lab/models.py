"""Models by what stands on a command line, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tokenprune.errors import DataError, UnknownNameError, UnsupportedModelError
from tokenprune.errors.names import nearest, suggestion
from tokenprune.interface.loading import (
    LoadedModel,
    Loader,
    LoadOptions,
)
from tokenprune.lab.kinds import LOADERS
from tokenprune.plugins.host import host
from tokenprune.reference import detail_model_path, reference_model_path, video_model_path

FOLDERS = "path"

#: The bundled model of each task, whatever folders there are.
REFERENCE = "reference"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    spec: str,
    options: LoadOptions,
    loaders: Mapping[str, Loader] | None = None,
    *,
    wanted: str = "",
) -> LoadedModel:
    """Load a model through the loader of its scheme.

    Args:
        spec: a folder, or a name with a scheme, such as `timm:NAME`.
        options: weights, device and dtype.
        loaders: by scheme; default: those of all plugins.
        wanted: kind of model that is needed, such as `mllm`; a loader that says of itself that it
            loads none is refused before it loads anything.

    Raises:
        DataError: there is no loader for the scheme.
        CheckpointError: the weights are missing, damaged or those of another model.
        UnsupportedModelError: it is no model of the kind that the loader serves.
    """
    if loaders is None:
        loaders = host().things(LOADERS)
    scheme, colon, target = spec.partition(":")
    if not colon or Path(spec).exists():
        scheme, target = FOLDERS, spec
    kinds = getattr(loaders.get(scheme), "kinds", None)
    if wanted and kinds is not None and wanted not in kinds:
        raise UnsupportedModelError(
            f"'{scheme}:' loads {' and '.join(kinds)} models, and a model of kind '{wanted}' is "
            "needed.",
            where=f"--model {spec}",
            remedy="Pass the folder of a multimodal LLM." if wanted == "mllm" else "",
        )
    if scheme in loaders:
        return loaders[scheme].load(target, options)
    forms = ", ".join(loader.usage for loader in loaders.values()) or "none, no loader is installed"
    raise DataError(
        f"there is no loader for '{scheme}:'.", where=f"--model {spec}", remedy=f"Forms: {forms}."
    )


def load_options(
    device: str | None = None, dtype: str | None = None, weights: Path | None = None
) -> LoadOptions:
    """Options from what stands on a command line.

    Args:
        device: default: CUDA if there is a usable device, else the CPU.
        dtype: default: float32 on the CPU, bfloat16 elsewhere.
        weights: checkpoint file.

    Raises:
        DataError: there is no such device or dtype.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise DataError(
            f"the device '{name}' can't be used ({str(error).splitlines()[0]}).",
            where="--device",
            remedy="Use cpu, or cuda where `tokenprune doctor` lists it.",
        ) from error
    dtype = dtype or ("float32" if place.type == "cpu" else "bfloat16")
    if dtype not in DTYPES:
        raise DataError(
            f"there is no dtype '{dtype}'.", where="--dtype", remedy=f"Use {', '.join(DTYPES)}."
        )
    if weights is not None and not weights.is_file():
        raise DataError(f"there is no file '{weights}'.", where="--weights")
    return LoadOptions(weights, place, DTYPES[dtype])


def model_place(name: str | None, task: str, where: str = "--model") -> str:
    """Where a model is loaded from.

    Args:
        name: a folder, a name with a scheme, or `reference`, which None stands for too.
        task: whose bundled model `reference` is, see `bundled_model`.
        where: what errors call the place of the name.

    Raises:
        UnknownNameError: it is no name with a scheme and no folder, and nearly `reference`.
    """
    if name is None or name == REFERENCE:
        return str(bundled_model(task))
    strange = ":" not in name and not Path(name).exists()
    if strange and nearest(name, [REFERENCE]):
        raise UnknownNameError(
            f"there is no model '{name}'.", where=where, remedy=suggestion(name, [REFERENCE])
        )
    return name


def bundled_model(task: str) -> Path:
    """Folder of the bundled model for a task: `detail`, `video`, or else the small one."""
    folders = {"detail": detail_model_path, "video": video_model_path}
    return folders.get(task, reference_model_path)()


def bundled_name(name: str) -> str:
    """Which of the bundled models it is: `reference`, `detail`, `video`, or none (empty)."""
    known: dict[Path, str] = {
        reference_model_path(): "reference",
        detail_model_path(): "detail",
        video_model_path(): "video",
    }
    return known.get(Path(name), "")


def shown_name(name: str) -> str:
    """A name without the folders of the machine that it was loaded on."""
    bundled = bundled_name(name)
    return f"{bundled} model" if bundled else Path(name).name
