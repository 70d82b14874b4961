"""Study files as data: which models, tasks and plans are crossed, and where records go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tokenprune.lab.data.builtin import BUILT_IN
from tokenprune.lab.data.candidates import PLACE, PROMPTS
from tokenprune.lab.data.hub import HubDataset
from tokenprune.lab.data.question import Columns, Frozen
from tokenprune.lab.greedy import LONG, SHORT
from tokenprune.lab.models import REFERENCE

#: A value of a grid: what stands in a plan at a dotted place.
Value = str | int | float | bool | dict[str, Any] | list[Any] | None

#: Keys of tasks that only one kind reads.
_ONLY = {
    "images": "jsonl",
    "labels": "pictures",
    "config": "dataset",
    "split": "dataset",
    "revision": "dataset",
    "columns": "dataset",
}


class ModelEntry(Frozen):
    """One model of a study."""

    name: str = REFERENCE
    """`reference` (the bundled model of each task), a folder (relative to the study, or else to the
    working directory), or `timm:NAME`."""
    title: str | None = None
    """How the report calls it; default: its name, of a folder the last part."""
    weights: Path | None = None
    """Checkpoint file, for models that are named."""
    device: str | None = None
    """Default: CUDA if there is one, else the CPU."""
    dtype: str | None = None
    """float32, bfloat16 or float16. Default: float32 on the CPU, bfloat16 elsewhere."""

    @property
    def shown(self) -> str:
        """What it is called in tables."""
        place = Path(self.name)
        folder = self.name != REFERENCE and place.is_dir()
        return self.title or (place.resolve().name if folder else self.name)


class TaskEntry(Frozen):
    """One task of a study."""

    kind: Literal["image", "detail", "video", "jsonl", "pictures", "captions", "dataset"] = "image"
    """`image`, `detail` and `video` are built in; `jsonl` holds questions about pictures or
    videos of the user;
    `pictures` is a labelled folder for classifiers and dual encoders; `captions` are pictures with
    captions for dual encoders; `dataset` is one of Hugging Face's."""
    path: Path | None = None
    """The file of `jsonl` (or its folder) and `captions`, or the folder of `pictures`."""
    images: Path | None = None
    """Of `jsonl`: the folder in which its pictures or videos lie; default: that of the file."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """Of `jsonl` and `dataset`: the samples are videos, and so many frames are taken from each, at
    the centres of equal spans."""
    labels: Path | None = None
    """CSV of `pictures`: file,class index; with a header. Default: one subfolder a class, numbered
    in the natural order of their names."""
    classes: Path | tuple[str, ...] | None = None
    """For dual encoders: names of the classes in the order of their numbers, one a line of a file
    or as a list. Default: those of the class labels of a `dataset`, or of the subfolders."""
    prompts: Annotated[tuple[str, ...], Field(min_length=1)] = PROMPTS
    """For dual encoders: what is said of a class, with `{}` for its name; embeddings of several
    prompts are averaged."""
    dataset: str | None = None
    """Of `dataset`: a name on the hub, or a local folder."""
    config: str | None = None
    """Of `dataset`: which of its configurations."""
    split: str = "test"
    """Of `dataset`: which split."""
    revision: str | None = None
    """Of `dataset`: a commit of the hub."""
    columns: Columns = Columns()
    """Of `dataset`: how its columns are called."""
    name: str | None = None
    """How the report calls it; default: its file or folder, its dataset, or the built-in kind."""
    types: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Of `image`, `detail`, `video` and `jsonl`: only questions of these types."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many samples."""

    @property
    def title(self) -> str:
        """What it is called in tables."""
        if self.name is not None:
            return self.name
        named = self.path or (self.dataset and Path(self.dataset))
        if not named:
            return self.kind
        place = named.resolve() if named.exists() else named
        return (place.stem if place.is_file() else place.name) or self.kind

    @property
    def video(self) -> bool:
        """Whether questions are about clips."""
        return self.kind == "video" or self.frames is not None

    @property
    def hub(self) -> HubDataset:
        """The rows of a task of kind `dataset`."""
        assert self.dataset is not None
        return HubDataset(
            name=self.dataset,
            columns=self.columns,
            config=self.config,
            split=self.split,
            revision=self.revision,
            frames=self.frames,
            limit=self.limit,
        )

    @model_validator(mode="after")
    def _places(self) -> TaskEntry:
        if self.kind in ("jsonl", "pictures", "captions") and self.path is None:
            raise ValueError(f"a task of kind '{self.kind}' needs 'path'")
        if (self.kind == "dataset") != (self.dataset is not None):
            raise ValueError("'dataset' goes with the kind 'dataset', and that needs it")
        for key, kind in _ONLY.items():
            # by value: a task that was packed for a worker comes back with every key set
            default = type(self).model_fields[key].default
            if self.kind != kind and getattr(self, key) != default:
                raise ValueError(f"'{key}' goes with the kind '{kind}'")
        if self.path is not None and self.kind == "dataset":
            raise ValueError("'path' goes with other kinds than 'dataset', which has 'dataset'")
        if self.kind in BUILT_IN and (self.path or self.labels):
            raise ValueError(f"the built-in task '{self.kind}' has no 'path' and no 'labels'")
        if self.types is not None and self.kind not in (*BUILT_IN, "jsonl"):
            raise ValueError("'types' goes with the kinds 'image', 'detail', 'video' and 'jsonl'")
        if self.frames is not None and self.kind not in ("jsonl", "dataset"):
            raise ValueError("'frames' goes with the kinds 'jsonl' and 'dataset'")
        return self

    @model_validator(mode="after")
    def _classes(self) -> TaskEntry:
        if self.kind not in ("pictures", "dataset"):
            for key in ("classes", "prompts"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"'{key}' goes with the kinds 'pictures' and 'dataset'")
        if self.classes == ():
            raise ValueError("'classes' names none")
        for prompt in self.prompts:
            if PLACE not in prompt:
                raise ValueError(f"the prompt '{prompt}' has no '{PLACE}' for the name of a class")
        return self


class PlanEntry(Frozen):
    """One plan, or a grid of plans."""

    plan: Path | dict[str, Any]
    """A plan file, relative to the study, or a plan written out."""
    name: str | None = None
    """How the report calls it; default: the plan's own name, or the file's, and what its grid
    varies. `{strategy}-{keep}` is a template: `strategy`, `at`, `keep`, `seed` and `plan` of every
    plan, and the keys of its grid, in short (`tau`, `1.keep`) or in full."""
    grid: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field(default_factory=dict)
    """Values by dotted place, such as `stages.0.keep: [32, 16]`; every combination is run."""
    models: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The models it runs on, as the report calls them; default: all of the study."""

    def runs_on(self, model: ModelEntry) -> bool:
        """Whether it is crossed with a model."""
        return self.models is None or model.shown in self.models


class Study(Frozen):
    """A whole study: models x tasks x plans, each combination one cell."""

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: str = "study"
    """For the report."""
    out: Path
    """Folder of the records, relative to the study file."""
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)] = (ModelEntry(),)
    """Default: the bundled reference model."""
    tasks: Annotated[tuple[TaskEntry, ...], Field(min_length=1)] = (TaskEntry(),)
    """Default: the built-in image task."""
    plans: Annotated[tuple[PlanEntry, ...], Field(min_length=1)]
    """Dense is always run beside them."""
    metrics: tuple[str, ...] = ("accuracy",)
    """What every answer is scored by; `accuracy` is built in and always recorded."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Samples a batch."""
    new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens generated per question. Default: 2 for the built-in tasks, whose answers are one word,
    and 32 for the user's own (ours)."""
    add_random: bool = True
    """Whether plans get a random plan beside them where the study has none that is fair: at the
    same layers of the LLM, and with the same position ids."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the plans that name none, of the order of runs and of resampling."""

    def generated(self, task: TaskEntry) -> int:
        """Tokens generated per question of a task."""
        return self.new_tokens or (SHORT if task.kind in BUILT_IN else LONG)
