"""What a comparison runs on: a model, and samples for its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError
from tokenprune.interface.loading import (
    LoadedClassifier,
    LoadedDual,
    LoadedMllm,
    LoadedModel,
    LoadOptions,
)
from tokenprune.lab.clips import check_clips
from tokenprune.lab.compare.settings import Settings
from tokenprune.lab.data.builtin import BUILT_IN
from tokenprune.lab.data.candidates import PROMPTS, Candidates, check_prompts, read_classes
from tokenprune.lab.data.jsonl import read_jsonl
from tokenprune.lab.data.pictures import labelled_pictures
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.task import Task
from tokenprune.lab.measure.zero_shot import task_of
from tokenprune.lab.models import load_model


@dataclass(frozen=True)
class Source:
    """Everything another process needs to build the same task.

    Attributes:
        model: what stands behind `--model`.
        options: how it is loaded.
        settings: what to compare.
        images: folder of pictures, for encoders; with `data`, of those that it names.
        labels: CSV with their classes.
        classes: file with the names of the classes, for dual encoders.
        prompts: templates for the names.
        data: file of questions for multimodal LLMs, see `read_jsonl`; None: built-in ones.
    """

    model: str
    options: LoadOptions
    settings: Settings
    images: Path | None = None
    labels: Path | None = None
    classes: Path | None = None
    prompts: tuple[str, ...] = PROMPTS
    data: Path | None = None

    def task(self, loaded: LoadedModel | None = None) -> Task:
        """The samples with the model, which is loaded if it isn't given.

        Raises:
            TokenpruneError: the model or the samples can't be read, or don't fit each other.
        """
        loaded = load_model(self.model, self.options) if loaded is None else loaded
        settings = self.settings
        if not isinstance(loaded, LoadedDual) and (self.classes or self.prompts != PROMPTS):
            raise DataError(
                "only dual encoders are asked by the names of classes.",
                where="--classes" if self.classes else "--prompt",
                remedy="Leave it away, or pass the folder of a dual encoder, such as CLIP.",
            )
        if settings.frames is not None and self.data is None:
            raise DataError(
                "frames are taken of the videos of your own questions.",
                where="--frames",
                remedy="Pass the questions with --data FILE, or leave it away: --task video asks "
                "about built-in clips.",
            )
        candidates = None
        if isinstance(loaded, LoadedMllm):
            self._check_own_pictures()
            if settings.video:
                check_clips(loaded, "--task video" if self.data is None else "--frames")
            samples = self._questions()
        elif self.data is not None:
            raise DataError(
                "an encoder answers no questions.",
                where="--data",
                remedy="Pass a multimodal LLM, or labelled pictures with --images and --labels.",
            )
        elif isinstance(loaded, LoadedClassifier):
            samples = self._pictures(loaded.classes)
        else:
            names = self._names(loaded)
            candidates = Candidates.of_classes(names, self.prompts)
            samples = self._pictures(len(names))
        return task_of(loaded, samples, settings.batch_size, settings.new_tokens, candidates)

    def _check_own_pictures(self) -> None:
        """Refuse what would be ignored: multimodal LLMs are asked questions."""
        given = {
            "--images": self.images is not None and self.data is None,
            "--labels": self.labels is not None,
            "--split": self.settings.split != "all",
        }
        for option, there in given.items():
            if there:
                raise DataError(
                    "labelled pictures are for encoders, and this model is a multimodal LLM, which "
                    "is asked questions.",
                    where=option,
                    remedy="Pass --model timm:NAME or the folder of a dual encoder, or your own "
                    "questions with --data FILE.",
                )

    def _questions(self) -> list[Question]:
        """Of the user's file, or built in."""
        settings = self.settings
        if self.data is None:
            task = BUILT_IN[settings.task]
            return task.questions(settings.limit or task.usual)
        if settings.probe:
            raise DataError(
                "the probe is fitted on built-in pictures and reads those of built-in questions.",
                where="--probe and --data",
                remedy="Leave one of them away.",
            )
        found = read_jsonl(
            self.data, frames=settings.frames, folder=self.images, elsewhere="--images"
        )
        return found[: settings.limit]

    def about(self, loaded: LoadedModel) -> dict[str, Any]:
        """Where the samples come from, for the record."""
        if self.data is not None:
            return {"name": f"questions of {self.data.name}", "data": self.data.name}
        if isinstance(loaded, LoadedMllm):
            shown = "clips" if self.settings.video else "pictures"
            about = {"task": self.settings.task}
            return {"name": f"built-in held-out questions about {shown}", **about}
        assert self.labels is not None
        split = self.settings.split
        about = {"name": "labelled pictures", "labels": self.labels.name, "split": split}
        if not isinstance(loaded, LoadedDual):
            return about
        assert self.classes is not None
        return {**about, "classes": self.classes.name, "prompts": list(self.prompts)}

    def _names(self, loaded: LoadedDual) -> tuple[str, ...]:
        check_prompts(self.prompts)
        if self.classes is not None:
            return read_classes(self.classes)
        raise DataError(
            "a dual encoder is compared on pictures whose classes have names.",
            where=f"--model {loaded.name}",
            remedy="Pass --images FOLDER, --labels FILE.csv and --classes NAMES.txt.",
        )

    def _pictures(self, classes: int) -> list[Question]:
        if self.settings.video:
            raise DataError(
                "an encoder answers no questions about videos.",
                where="--task video",
                remedy="Pass a multimodal LLM, or leave --task away.",
            )
        if self.images is None or self.labels is None:
            raise DataError(
                "an encoder is compared on labelled pictures.",
                where=f"--model {self.model}",
                remedy="Pass --images FOLDER and --labels FILE.csv.",
            )
        split, limit = self.settings.split, self.settings.limit
        return labelled_pictures(
            self.images, self.labels, classes=classes, split=split, limit=limit
        )
