"""Train the detail model: `python -m training.detail_model.train --seed 0 --out DIR`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenprune.reference.detail_questions import DETAIL_TYPES
from training.detail_model.data import DetailBatch, drawer
from training.detail_model.heads import DetailHeads, detail_loss
from training.detail_model.model import PATCHES, build_model
from training.detail_model.stages import STAGES, Stage
from training.reference_model import choose
from training.reference_model.data import normalise
from training.reference_model.forward import (
    TowerOutput,
    Weights,
    answer_questions,
    patchify,
    project,
    tower_forward,
)
from training.reference_model.optimiser import Optimisers
from training.reference_model.trainer import Losses, ModelTrainer, Scores, answer_loss, by_type
from training.shared.drawing import drawn
from training.shared.running import Meter, arguments, train

#: Steps that wait while pictures are replayed, so that the same ones don't follow each other.
WAITING = 24
FEWEST = 48
COMPACT_SHARE = 0.33
#: First key of the random numbers of this task's pictures.
DRAWING = 21


@dataclass(frozen=True)
class Turn:
    """What one step works on: pictures seen by the tower, and some of their questions."""

    batch: DetailBatch
    out: TowerOutput
    asked: slice


class Trainer(ModelTrainer[DetailHeads, Stage]):
    """Model, heads and the random choices of training."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, build_model(seed), DetailHeads())

    def see(self, w: Weights, batch: DetailBatch, stage: Stage, step: int) -> TowerOutput:
        """Tower features of a batch, on all patches or on the items and some background."""
        pixels = patchify(normalise(batch.images)).bfloat16()
        if step % stage.full_every == 0:
            index = choose.everything(len(pixels), PATCHES)
        else:
            index = choose.items_first(batch.touched, stage.tower_tokens, self.random)
        with nullcontext() if stage.tower else torch.no_grad():
            return tower_forward(w, pixels, index, last_block=stage.tower is not None)

    def turns(self, stage: Stage, stream: Iterator[DetailBatch]) -> Iterator[Turn]:
        """The steps of a stage, pictures replayed with new questions if it says so."""
        waiting: list[Turn] = []
        size = stage.data.questions // stage.replays
        for step, batch in enumerate(stream):
            out = self.see(self.weights(), batch, stage, step)
            waiting += [
                Turn(batch, out, slice(turn * size, (turn + 1) * size))
                for turn in range(stage.replays)
            ]
            room = WAITING if stage.replays > 1 else 0
            while len(waiting) > room:
                pick = int(torch.randint(len(waiting), (), generator=self.random))
                yield waiting.pop(pick)
        yield from waiting

    def pick(self, batch: DetailBatch, index: Tensor, stage: Stage) -> Tensor:
        """Places `[B, M]` of the tokens that the language model gets."""
        have = index.shape[1]
        if not self.chance(stage.drop_share):
            return choose.everything(len(index), have)
        count = choose.log_uniform(FEWEST, min(have, stage.most), self.random)
        return choose.items_first(batch.anchor.gather(1, index), count, self.random)

    def answers(self, w: Weights, turn: Turn, stage: Stage) -> tuple[Tensor, Tensor]:
        """Loss of answer and `<eos>`, and which answers `[B, Q]` are right."""
        keep = self.pick(turn.batch, turn.out.index, stage)
        visual = project(w, choose.gather_tokens(turn.out.patches, keep))
        position = 1 + turn.out.index.gather(1, keep)
        start = torch.full((len(keep),), 1 + PATCHES)
        if keep.shape[1] < PATCHES and self.chance(COMPACT_SHARE):
            position = 1 + choose.everything(*keep.shape)
            start = torch.full((len(keep),), 1 + keep.shape[1])
        words, answer = turn.batch.words[:, turn.asked], turn.batch.answer[:, turn.asked]
        hidden = answer_questions(w, visual, position, words, start)
        at = turn.batch.answer_at[:, turn.asked]
        return answer_loss(w, hidden, at, answer)

    def optimisers(self, stage: Stage) -> Optimisers:
        """Fresh optimisers of the parts that a stage trains."""
        return self.tower_and_language(stage.tower, stage.lm, stage.steps)

    def meter(self, stage: Stage) -> Meter:
        """What writes the stage's log, in pictures a second."""
        return Meter(stage.name, stage.taken, stage.data.batch, "img/s", digits=1)

    def step(self, turn: Turn, stage: Stage) -> tuple[Tensor, Scores]:
        """Loss and scores of one step."""
        loss, scores = torch.zeros(()), Scores()
        if stage.tower is not None:
            loss, scores = detail_loss(
                self.heads, turn.out, turn.batch, stage.beside_weight, stage.places_weight
            )
        if stage.lm is not None:
            answers, right = self.answers(self.weights(), turn, stage)
            loss = loss + answers
            scores |= by_type(right, turn.batch.type[:, turn.asked], DETAIL_TYPES)
        return loss, scores

    def losses(self, stage: Stage, number: int, options: Namespace) -> Losses:
        """The forwards of a stage, each on the questions of one turn."""
        fresh = range(-(-stage.taken // stage.replays))
        key = (self.seed, DRAWING, number)
        with drawn(drawer(stage.data, self.seed), key, fresh, options.workers) as stream:
            for turn in self.turns(stage, (DetailBatch.of(arrays) for arrays in stream)):
                yield self.step(turn, stage)


def main() -> None:
    """Run all stages, resuming after the last one that left a checkpoint."""
    train(arguments(__doc__, workers=True), Trainer, STAGES)


if __name__ == "__main__":
    main()
