"""Write the model card from the measured record: `python -m training.video_model.card`."""

from __future__ import annotations

from tokenprune.reference import CLIP_TYPES, FRAMES, video_model_path
from training.shared.writing import Record, card_command, head, row, usage_example
from training.video_model.evaluate import RECORD
from training.video_model.forward import QUESTION_START
from training.video_model.train import FEWEST, MOST
from training.video_model.vocab import WORDS

#: How the processor is given the frames of a clip and a question about it.
CLIP_INPUTS = """inputs = processor(
    images=list(sample.frames), text=clip_prompt(sample.question), return_tensors="pt"
)"""

_HEAD = """# tokenprune video model

The reference model's sibling for clips of {frames} frames, an ordinary
`LlavaForConditionalGeneration`. Its vision tower is the image model's, bit for bit; projector and
language model were tuned on clips that a program draws. It exists to exercise and compare pruning
methods on video. It is not a general model, and it no longer answers the image model's questions.

- A clip is {frames} images of one prompt, each behind its number:
  `0 <image> 1 <image> ... {last} <image> what comes first ?`. The chat template writes that from
  messages with several image parts. The full prompt holds {tokens} visual tokens; the question
  starts at position {start}.
- {words} words, fp16 safetensors, {megabytes} MB.
- Licence: that of the project. All data are generated; no outside picture, text or weight is in it.

{usage}
"""

_DATA = """## Data

One muted, textured background a clip, with fresh noise in every frame; 1 to 4 objects of distinct
shapes (15 to 22 pixels) that stand still or move along straight lines, 5 to 8 pixels a frame.
In about two of three clips they enter in different frames, once each, and are never all visible
at once; in the others each is seen in one to three stretches. Three question types:

- `motion`: `which way does the star move ?` (left, right, up, down, nowhere), of objects visible
  in 4 frames or more;
- `order`: `what comes first ?`, `last`, `before the star`, `after the star`;
- `count`: `how many objects appear ?` in all, or `how often does the star appear ?`.

The held-out clips are drawn from their own seed with their own textures whenever they are needed;
the first {clips} of them, with {questions} questions, are measured here.

## Training

| stage | steps | clips a step | questions a clip |
| --- | --- | --- | --- |
{stages}

Every batch is used about {replays} times with other tokens of it. `visits` draws more clips whose
objects go and come again, and adds a loss on what the language model's inner states tell at an
object's tokens: whether it has just come, and how often so far. The tower sees the patches that
objects touch and some background. The language model gets {fewest} to {most} tokens a frame: at
least one patch of every object by ground truth and random others, or, in a tenth of the steps,
entirely random ones. In a quarter of the steps the others are averaged in, in most the background
comes from another clip, in a fifth the positions are numbered anew. It never gets all 196 patches
of a frame in training, so all prompts without pruning are longer than any it was trained on. No
pruning method's scores are used.

| stage | step | {names} |
| --- | --- | {rules} |
{curve}

Accuracy while training, on the thinned tokens of each step, as shares of one.
"""


def _percents(scores: dict[str, float]) -> list[str]:
    return [f"{scores[name]:.1f}" for name in ("all", *CLIP_TYPES)]


def _stages(record: Record) -> str:
    stages = record["recipe"]["stages"].items()
    keys = ("steps", "clips", "questions")
    return "\n".join(row([name, *(str(stage[key]) for key in keys)]) for name, stage in stages)


def _curve(record: Record, points: int = 12) -> str:
    """A few entries of the training log, the last one included."""
    log = record["training"]
    points = min(points, len(log))
    picked = [log[round((i + 1) * len(log) / points) - 1] for i in range(points)]
    names = ("loss", "all", *CLIP_TYPES)
    return "\n".join(
        row([entry["stage"], str(entry["step"]), *(f"{entry[name]:.3f}" for name in names)])
        for entry in picked
    )


def accuracy_table(record: Record) -> str:
    """Accuracy by type: dense, and with frames that can't tell the answer."""
    rows = head("", "all", *CLIP_TYPES)
    asked = record["questions"]
    rows.append(row(["questions", *(str(asked[name]) for name in ("all", *CLIP_TYPES))]))
    rows.append(row(["all tokens", *_percents(record["dense"])]))
    rows += [row([name, *_percents(scores)]) for name, scores in record["changed"].items()]
    rows.append(row(["most frequent answer", *_percents(record["text_only_guess"])]))
    return "\n".join(rows)


def selection_table(record: Record) -> str:
    """Accuracy by chooser, positions and tokens kept of every frame."""
    rows = head("kept by", "a frame", "positions", "all", *CLIP_TYPES)
    for positions, table in record["selection"].items():
        for name, counts in table.items():
            rows += [row([name, n, positions, *_percents(s)]) for n, s in counts.items()]
    return "\n".join(rows)


def limits(record: Record) -> str:
    """What the model is not good for."""
    dense = record["dense"]
    weak = min(CLIP_TYPES, key=lambda name: float(dense[name]))
    return f"""## Not good for

- Pictures, other clips, other wordings, other numbers of frames. Answers are single words.
- Differences below about {2 * record["standard_error"]:.0f} points: the naive standard error over
  all questions is {record["standard_error"]:.2f} points, and about twice that on one type.
- Anything that rests on `{weak}` alone, its weakest type: {dense[weak]:.1f} % with all tokens.
- `how often`: nearly all errors of `count` are there, next to none in `how many objects`; those of
  `order` are mostly `before` and `after`. The record has no numbers by wording.
- Conclusions about large models. Objects cover few patches, and the background holds no answers:
  the language model was trained not to read objects from background tokens.
- Anything that depends on the seed: this is one run.
"""


def write_card(record: Record) -> str:
    """The whole card."""
    recipe, generate = record["recipe"], record["generate"]
    return "\n".join(
        [
            _HEAD.format(
                frames=FRAMES,
                last=FRAMES - 1,
                tokens=QUESTION_START - 1 - FRAMES,
                start=QUESTION_START,
                words=len(WORDS),
                megabytes=record["megabytes"],
                usage=usage_example(
                    "video_model_path", "heldout_clips", CLIP_INPUTS, 2, "clip_prompt"
                ),
            ),
            _DATA.format(
                clips=record["held_out"]["clips"],
                questions=record["questions"]["all"],
                stages=_stages(record),
                replays=recipe["replays"],
                fewest=FEWEST,
                most=MOST,
                names=" | ".join(("loss", "all", *CLIP_TYPES)),
                rules=" | ".join(["---"] * (2 + len(CLIP_TYPES))),
                curve=_curve(record),
            ),
            f"""## Accuracy

Percent of held-out questions, greedy answers, fp16 weights computed in fp32.

{accuracy_table(record)}

Through `processor` and `generate`, two prompts a batch, where nothing but the answer may be said:
{generate["all"]:.1f} % of the first {generate["questions"]} questions; the answer is that of the
forward used above for {generate["same_as_training_forward"]:.1f} % of them.

### Kept tokens

Chosen after the tower in every frame for itself. Original positions keep the place of every kept
token; compact ones count anew.

{selection_table(record)}
""",
            limits(record),
            "The numbers come from `benchmarks/records/video_model.json`; how to make them again\n"
            "stands in `training/video_model/README.md`.\n",
        ]
    )


def main() -> None:
    """Command line."""
    card_command(__doc__, write_card, RECORD, video_model_path())


if __name__ == "__main__":
    main()
