"""Train the reference model: `python -m training.reference_model.train --seed 0 --out DIR`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from training.reference_model import choose
from training.reference_model.data import ALL_TYPES, Batch, batches, normalise
from training.reference_model.forward import (
    TokenMap,
    TowerOutput,
    Weights,
    answer_questions,
    logits,
    patchify,
    project,
    tower_forward,
)
from training.reference_model.heads import Heads, tower_loss
from training.reference_model.model import PATCHES, TOWER_BLOCKS, build_model
from training.reference_model.optimiser import Optimisers
from training.reference_model.stages import STAGES, Stage, scaled
from training.reference_model.vocab import EOS
from training.shared.running import SAVE_EVERY, Meter, arguments, begin, waiting

EOS_WEIGHT = 0.2


class Trainer:
    """Model, heads and the random choices of training."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.model = build_model(seed)
        self.heads = Heads()
        self.random = Generator()

    def weights(self) -> Weights:
        """The parameters in bfloat16, still connected to their fp32 masters."""
        return {name: p.bfloat16() for name, p in self.model.named_parameters()}

    def chance(self, share: float) -> bool:
        """Whether an event of this probability happens."""
        return float(torch.rand((), generator=self.random)) < share

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

    def answer_loss(
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
        at = batch.answer_at[..., None, None].expand(-1, -1, -1, hidden.shape[-1])
        said = logits(w, hidden.gather(2, at).squeeze(2)).float()
        after = logits(w, hidden.gather(2, at + 1).squeeze(2)).float()
        loss = F.cross_entropy(said.flatten(0, 1), batch.answer.flatten())
        stop = torch.full_like(batch.answer, EOS)
        loss = loss + EOS_WEIGHT * F.cross_entropy(after.flatten(0, 1), stop.flatten())
        return loss, said.argmax(-1) == batch.answer

    def optimisers(self, stage: Stage) -> Optimisers:
        """Fresh optimisers for a stage; a stage without language model leaves it alone."""
        named = list(self.model.named_parameters())
        tower = [(n, p) for n, p in named if "vision_tower" in n] + list(
            self.heads.named_parameters()
        )
        parts = [(tower, stage.tower)]
        if stage.lm is not None:
            parts.append(([(n, p) for n, p in named if "vision_tower" not in n], stage.lm))
        return Optimisers(parts, stage.steps)

    def run(self, stage: Stage, number: int, workers: int, partial: Path) -> None:
        """Train one stage; `partial` holds a look at it while it runs."""
        self.random.manual_seed(1000 * self.seed + number)
        optimisers = self.optimisers(stage)
        meter = Meter(stage.name, stage.steps, stage.data.batch, "img/s", digits=0)
        with batches(stage.data, self.seed, number, range(stage.steps), workers) as stream:
            for step, batch in enumerate(stream):
                w = self.weights()
                out = self.run_tower(w, batch, stage, step)
                loss, scores = tower_loss(self.heads, out, batch)
                loss = loss * stage.dense_weight
                if stage.lm is not None:
                    answer_loss, right = self.answer_loss(w, out, batch, stage)
                    loss = loss + answer_loss
                    scores |= by_type(right, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                optimisers.step(step)
                meter.add(step, {"loss": float(loss.detach()), **scores})
                if (step + 1) % SAVE_EVERY == 0:
                    save(self, partial)


def by_type(right: Tensor, batch: Batch) -> dict[str, float]:
    """Accuracy of every question type in a batch, and over all."""
    scores = {"ALL": float(right.float().mean())}
    for number, name in enumerate(ALL_TYPES):
        asked = batch.type == number
        if asked.any():
            scores[name] = float(right[asked].float().mean())
    return scores


def save(trainer: Trainer, path: Path) -> None:
    """Write model and heads."""
    torch.save({"model": trainer.model.state_dict(), "heads": trainer.heads.state_dict()}, path)


def load(trainer: Trainer, path: Path) -> None:
    """Read what `save` wrote."""
    state = torch.load(path, weights_only=True)
    trainer.model.load_state_dict(state["model"])
    nn.Module.load_state_dict(trainer.heads, state["heads"])


def main() -> None:
    """Run all stages, resuming after the last one that left a checkpoint."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, default=1)
    options = begin(parser)
    trainer = Trainer(options.seed)
    for number, stage, path in waiting(STAGES, options.out, lambda path: load(trainer, path)):
        trainer.run(
            scaled(stage, options.scale), number, options.workers, options.out / "partial.pt"
        )
        save(trainer, path)


if __name__ == "__main__":
    main()
