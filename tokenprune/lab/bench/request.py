"""From what was asked on the command line to plans, workloads and the user's own input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenprune.errors import DataError, TokenpruneError
from tokenprune.interface.loading import LoadedMllm, LoadedModel
from tokenprune.lab.bench.record import MEANING
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.bench.workload import Workload, parse_size, workloads
from tokenprune.lab.data.question import Question
from tokenprune.plan import Plan, load_plan

#: Share of the tokens that plans keep without `--plans` (ours).
QUARTER = 0.25


@dataclass(frozen=True)
class Request:
    """The input as it was asked for; what is empty or None takes its default.

    Attributes:
        batches: prompts of a call; default: 1.
        images: pictures of a prompt; default: 1.
        frames: frames of a prompt, instead of `images`; of the videos of `questions`, one number.
        sizes: such as `336` or `480x640`; default: 336.
        words: of the question; default: 16.
        new_tokens: after the first one.
        pictures: the user's own: the pictures of one prompt, or samples of an encoder.
        question: about them.
        questions: JSON-lines file of pictures or videos and questions.
    """

    batches: Sequence[int] = ()
    images: Sequence[int] = ()
    frames: Sequence[int] = ()
    sizes: Sequence[str] = ()
    words: int | None = None
    new_tokens: int = 8
    pictures: Sequence[Path] = ()
    question: str | None = None
    questions: Path | None = None

    def check(self, settings: BenchSettings) -> None:
        """Refuse what contradicts itself, before a model is loaded.

        Raises:
            DataError: naming the option.
        """
        if settings.flops not in MEANING:
            raise DataError(
                f"there is no '{settings.flops}'.",
                where="--flops",
                remedy="Use measured or formula.",
            )
        if self.images and self.frames:
            raise DataError("a picture of a prompt is an image or a frame.", where="--frames")
        if self.pictures and self.questions:
            raise DataError("the file names the pictures.", where="--questions")
        if self.question is not None and not self.pictures:
            raise DataError("there is no picture to ask about.", where="--question")
        given = {"--images": self.images, "--frames": self.frames, "--size": self.sizes}
        if self.questions and len(self.frames) == 1:
            del given["--frames"]  # of each of the videos in the file
        given["--words"] = self.words or ()  # type: ignore[assignment]
        clash = [name for name, value in given.items() if value]
        if (self.pictures or self.questions) and clash:
            raise DataError(
                "your own input says that itself.",
                where=clash[0],
                remedy="Leave it out. For frames, write images: frames in the plans; for videos in "
                "a file of questions, say one number with --frames.",
            )

    def own(self, loaded: LoadedModel) -> list[Question]:
        """The user's own input, or none; pictures are still files.

        Raises:
            DataError: a file is missing or wrong, or the model takes no such input.
        """
        from tokenprune.lab.data.jsonl import read_jsonl

        plain = not isinstance(loaded, LoadedMllm)
        for name, value in (
            ("--images", self.images),
            ("--frames", self.frames),
            ("--question", self.question),
            ("--questions", self.questions),
        ):
            if plain and value:
                raise DataError("an encoder gets single pictures without words.", where=name)
        for path in self.pictures:
            if not path.is_file():
                raise DataError(f"there is no picture '{path}'.", where="--picture")
        if self.questions is not None:
            frames = self.frames[0] if self.frames else None
            return read_jsonl(self.questions, answers=False, frames=frames)
        if not self.pictures:
            return []
        if plain:
            return [Question(path, "") for path in self.pictures]
        if self.question is None:
            raise DataError("there is no question about it.", where="--picture", remedy="Add one.")
        one = self.pictures[0] if len(self.pictures) == 1 else list(self.pictures)
        return [Question(one, "", self.question)]

    def workloads(self, own: Sequence[Question]) -> list[Workload]:
        """What to sweep over.

        Raises:
            DataError: a size is none.
        """
        if own:
            name = "your input" if len(own) == 1 else f"{len(own)} inputs of yours"
            return [
                Workload(batch, 0, 0, 0, 0, self.new_tokens, video=bool(self.frames), own=name)
                for batch in self.batches or (1,)
            ]
        return workloads(
            self.batches or (1,),
            self.frames or self.images or (1,),
            [parse_size(text) for text in self.sizes or ("336",)],
            words=self.words or 16,
            new_tokens=self.new_tokens,
            video=bool(self.frames),
        )


def quarters(loaded: LoadedModel) -> tuple[list[tuple[str, Plan]], list[str]]:
    """Every training-free strategy of static length at a quarter, and sentences on those left out.

    Each stands where comparisons put it, or inside the encoder if that is all there is. One that
    can't be attached with its default parameters, such as one whose plans name a second model, is
    left out.
    """
    from tokenprune.engine.attach import attach
    from tokenprune.interface.strategy import places
    from tokenprune.interface.trainable import TrainableStrategy
    from tokenprune.lab.measure.entries import home
    from tokenprune.plugins.host import host

    found, left_out = [], []
    for name, kind in sorted(host().strategies.items()):
        if issubclass(kind, TrainableStrategy) or kind.length != "planned":
            continue
        plain = not isinstance(loaded, LoadedMllm)
        if plain and "encoder" not in places(kind):
            continue
        stage = {"at": "encoder" if plain else home(kind), "strategy": name, "keep": QUARTER}
        plan = load_plan({"stages": [stage]})
        try:
            attach(loaded.model, plan).detach()
        except TokenpruneError as error:
            left_out.append(f"{name} is left out: {error.message}")
        else:
            found.append((name, plan))
    return found, left_out
