"""Train the reference model: `python -m training.reference_model.train --seed 0 --out DIR`."""

from __future__ import annotations

from argparse import Namespace

import torch
from torch import Tensor

from training.reference_model import choose
from training.reference_model.data import ALL_TYPES, Batch, batches, normalise
from training.reference_model.forward import (
    TokenMap,
    TowerOutput,
    Weights,
    answer_questions,
    patchify,
    project,
    tower_forward,
)
from training.reference_model.heads import Heads, tower_loss
from training.reference_model.model import PATCHES, TOWER_BLOCKS, build_model
from training.reference_model.optimiser import Optimisers
from training.reference_model.stages import STAGES, Stage
from training.reference_model.trainer import Losses, ModelTrainer, Scores, answer_loss, by_type
from training.shared.running import Meter, arguments, train


class Trainer(ModelTrainer[Heads, Stage]):
    """Model, heads and the random choices of training."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, build_model(seed), Heads())

    def run_tower(self, w: Weights, batch: Batch, stage: Stage, step: int) -> TowerOutput:
        """Tower features of a batch, on all patches or on a subset."""
        pixels = patchify(normalise(batch.images)).bfloat16()
        rows = len(pixels)
        if step % stage.full_every == 0:
            index = choose.everything(rows, PATCHES)
        else:
            index = choose.items_first(batch.touched, stage.tower_tokens, self.random)
        return tower_forward(w, pixels, index, self.thinning(batch, index, stage))

    def thinning(self, batch: Batch, index: Tensor, stage: Stage) -> dict[int, TokenMap]:
        """Sometimes a token map before one random block: drop or merge an informed subset."""
        if not self.chance(stage.thin_share):
            return {}
        block = int(torch.randint(1, TOWER_BLOCKS - 1, (), generator=self.random))
        count = choose.log_uniform(32, index.shape[1], self.random)
        owner = batch.owner.gather(1, index)
        keep = choose.informed(owner, count, self.random)
        return {block: choose.Thin(keep, merge=self.chance(0.5))}

    def pick(self, batch: Batch, index: Tensor, stage: Stage) -> tuple[Tensor, bool]:
        """Places `[B, M]` of the tokens that the language model gets, and if by blind chance."""
        have = index.shape[1]
        if not self.chance(stage.drop_share):
            return choose.everything(len(index), have), False
        count = min(have, choose.log_uniform(16, have, self.random))
        if self.chance(0.2):
            return choose.top_sorted(torch.rand(index.shape, generator=self.random), count), True
        return choose.informed(batch.owner.gather(1, index), count, self.random), False

    def answers(
        self, w: Weights, out: TowerOutput, batch: Batch, stage: Stage
    ) -> tuple[Tensor, Tensor]:
        """Loss of answer and `<eos>`, and which answers `[B, Q]` are right."""
        keep, blind = self.pick(batch, out.index, stage)
        patches = out.patches
        if stage.swap_share and (blind or self.chance(stage.swap_share)):
            # else the tower hides items in the background, where any choice of tokens finds them
            patches = choose.swap_background(patches, ~batch.touched.gather(1, out.index))
        patches = choose.gather_tokens(patches, keep)
        visual = project(w, patches)
        position = 1 + out.index.gather(1, keep)
        start = torch.full((len(keep),), 1 + PATCHES)
        if self.chance(stage.compact_share):
            position = 1 + choose.everything(*keep.shape)
            start = torch.full((len(keep),), 1 + keep.shape[1])
        hidden = answer_questions(w, visual, position, batch.words, start)
        return answer_loss(w, hidden, batch.answer_at, batch.answer)

    def optimisers(self, stage: Stage) -> Optimisers:
        """Fresh optimisers for a stage; a stage without language model leaves it alone."""
        return self.tower_and_language(stage.tower, stage.lm, stage.steps)

    def meter(self, stage: Stage) -> Meter:
        """What writes the stage's log, in pictures a second."""
        return Meter(stage.name, stage.taken, stage.data.batch, "img/s", digits=0)

    def step(self, batch: Batch, stage: Stage, step: int) -> tuple[Tensor, Scores]:
        """Loss and scores of one step."""
        w = self.weights()
        out = self.run_tower(w, batch, stage, step)
        loss, scores = tower_loss(self.heads, out, batch)
        loss = loss * stage.dense_weight
        if stage.lm is not None:
            answers, right = self.answers(w, out, batch, stage)
            loss = loss + answers
            scores |= by_type(right, batch.type, ALL_TYPES)
        return loss, scores

    def losses(self, stage: Stage, number: int, options: Namespace) -> Losses:
        """The forwards of a stage, each on new pictures."""
        with batches(stage.data, self.seed, number, range(stage.taken), options.workers) as stream:
            for step, batch in enumerate(stream):
                yield self.step(batch, stage, step)


def main() -> None:
    """Run all stages, resuming after the last one that left a checkpoint."""
    train(arguments(__doc__, workers=True), Trainer, STAGES)


if __name__ == "__main__":
    main()
