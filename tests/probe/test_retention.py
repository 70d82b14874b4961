"""Reading tokens at places of a tiny model, and retention as a metric of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.table import Table

import tokenprune
from tests import models
from tests.compare.tiny import save_llava
from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedMllm, LoadOptions
from tokenprune.interface.tokens import grid_positions
from tokenprune.lab.compare import Settings, Source, compare, tables
from tokenprune.lab.compare.retention import Retention
from tokenprune.lab.data.pictures import heldout_clip_questions, heldout_questions
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.models import load_model
from tokenprune.lab.probe.capture import Reader
from tokenprune.lab.probe.places import parse_places
from tokenprune.plan import Plan, load_plan

IMG = models.IMAGE_TOKEN
PROMPTS = [[1, IMG, 7, 8, 9, 10], [1, 13, IMG, 14], [1, IMG, 16]]
PLACES = ("encoder", "projector", "llm:0", "llm:2", "llm:3")


def plan(*stages: dict[str, Any], **more: Any) -> Plan:
    return load_plan({"stages": list(stages), **more})


ENCODER = {"at": "encoder", "strategy": "evoprune", "keep": 20}
EARLY = {"at": "pre_llm", "strategy": "fopru", "keep": 9}
LATE = {"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 4}


@pytest.mark.parametrize("build", [models.llava_clip, models.llava_siglip])
def test_dense_states_are_the_models_own(build: Callable[..., Any]) -> None:
    model, inputs = build(), models.llava_inputs(PROMPTS)
    found, target = Reader(model, PLACES).dense(inputs)
    with torch.no_grad():
        plain = model(**inputs, output_hidden_states=True)
        features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
        tower = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    images = inputs["input_ids"] == IMG
    class_token = build is models.llava_clip
    projected = torch.stack([*features])  # a tensor or, in newer releases, a list
    assert torch.equal(found["projector"].hidden, projected)
    assert torch.equal(target[:, 0], tower.hidden_states[-2][:, int(class_token) :])
    # hidden state 0 are the embeddings, and the last one went through the final norm
    for layer in (0, 2):
        state = plain.hidden_states[layer + 1]
        rows = torch.stack([row[mask] for row, mask in zip(state, images, strict=True)])
        assert torch.equal(found[f"llm:{layer}"].hidden, rows)
    for states in found.values():
        assert states.mask.all()
        assert torch.equal(states.position[0], grid_positions((1, 6, 6), torch.arange(36)))


def test_pruned_states_are_the_survivors_with_their_places() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    reader = Reader(model, PLACES)
    full, _ = reader.dense(inputs)
    found = reader.read(plan(ENCODER, EARLY, LATE), inputs)
    counts = {place: states.mask.sum(dim=1).tolist() for place, states in found.items()}
    assert counts == {
        "encoder": [20] * 3, "projector": [9] * 3, "llm:0": [9] * 3, "llm:2": [4] * 3,
        "llm:3": [4] * 3,
    }  # fmt: skip
    for early, later in (("encoder", "projector"), ("projector", "llm:0"), ("llm:0", "llm:2")):
        for before, after in zip(found[early].rows(), found[later].rows(), strict=True):
            places = {tuple(place) for place in before[1].tolist()}
            assert {tuple(place) for place in after[1].tolist()} <= places
    only = reader.read(plan(EARLY), inputs)
    assert torch.equal(only["encoder"].hidden, full["encoder"].hidden)
    for number, (hidden, position) in enumerate(only["projector"].rows()):
        index = position[:, 1] * 6 + position[:, 2]
        torch.testing.assert_close(hidden, full["projector"].hidden[number, index])


def test_the_model_is_left_as_it_was() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    with torch.no_grad():
        plain = model(**inputs).logits
        Reader(model, PLACES).read(plan(EARLY, LATE), inputs)
        assert torch.equal(model(**inputs).logits, plain)
    assert not any("forward" in vars(module) for module in model.modules())


def test_watching_a_training_pass_keeps_gradients() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    reader = Reader(model, ("projector", "llm:3"))
    with tokenprune.attach(model, plan(EARLY)) as attachment:
        found = reader.watch(attachment)
        model(**inputs)
    weight = model.model.multi_modal_projector.linear_1.weight
    for rows in found.values():
        assert len(rows) == 3
        loss = torch.stack([hidden.square().sum() for hidden, _ in rows]).sum()
        (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
        assert gradient.abs().sum() > 0


def test_a_batch_is_read_as_its_samples_are() -> None:
    model, inputs = models.llava_clip(), models.llava_inputs(PROMPTS)
    reader = Reader(model, PLACES)
    together = reader.read(plan(EARLY, LATE), inputs)
    for number, prompt in enumerate(PROMPTS):
        alone = models.llava_inputs([prompt])
        alone["pixel_values"] = inputs["pixel_values"][number : number + 1]
        for place, states in reader.read(plan(EARLY, LATE), alone).items():
            hidden, position = together[place].rows()[number]
            torch.testing.assert_close(states.hidden[0], hidden, rtol=1e-4, atol=1e-5)
            assert torch.equal(states.position[0], position)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> LoadedMllm:
    loaded = load_model(str(save_llava(tmp_path_factory.mktemp("probed"))), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    return loaded


def test_frames_are_read_as_one_video(llava: LoadedMllm) -> None:
    questions = heldout_clip_questions(2)
    inputs = llava.prepare([q.image for q in questions], [q.text for q in questions])
    reader = Reader(llava.model, PLACES, frames=8)
    full, target = reader.dense(inputs)
    assert target.shape[:3] == (2, 8, 36)
    whole = grid_positions((8, 6, 6), torch.arange(8 * 36))
    for place, states in full.items():
        assert torch.equal(states.position[1], whole), place
    pruned = reader.read(plan(EARLY, images="frames"), inputs)
    assert pruned["projector"].mask.sum(dim=1).tolist() == [72, 72]
    for number, (hidden, position) in enumerate(pruned["projector"].rows()):
        index = position[:, 0] * 36 + position[:, 1] * 6 + position[:, 2]
        torch.testing.assert_close(hidden, full["projector"].hidden[number, index])


def test_nothing_removed_is_one_and_mean_states_are_zero(llava: LoadedMllm) -> None:
    task = VqaTask(llava, heldout_questions(6), 4)
    metric = Retention(task, ("encoder", "projector", "llm:3"), fit=12, scored=6)
    keep_all = {"at": "pre_llm", "strategy": "uniform", "keep": 1.0}
    nothing, some = metric.measure([plan(keep_all), plan(EARLY)])
    for place in ("encoder", "projector", "llm:3"):
        assert nothing[place].value == pytest.approx(1.0)
        assert nothing[place].low == pytest.approx(1.0)
    assert some["encoder"].value == pytest.approx(1.0)
    assert some["projector"].value < 1.0
    for known in metric._known.values():
        assert known.retention(known.null, metric._samples).value == pytest.approx(0.0)
    assert 0 < metric.estimate(1) < metric.estimate(100)
    again = metric.measure([plan(EARLY)])
    assert again[0] == some, "fitted once"


def test_a_comparison_with_a_probe(llava: LoadedMllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "tokenprune.lab.compare.retention.Retention.__init__", small(Retention.__init__)
    )
    settings = Settings([("mine", plan(EARLY))], limit=4, batch_size=4, probe=("projector",))
    told: list[tuple[int, int, str]] = []
    said: list[str] = []
    found = compare(
        source(llava, settings),
        llava,
        progress=lambda *news: told.append(news),
        say=lambda text: said.append(f"{len(told)}: {text}"),
    )
    assert len(said) == 1
    assert said[0].startswith("0: --probe will take about 0 min"), "before anything is measured"
    assert [done for done, _, _ in told] == list(range(told[-1][1]))
    assert found.results[0].probe.keys() == found.probe.keys() == {"projector"}
    assert found.probe["projector"].keys() == {"full", "null"}
    without = compare(source(llava, dense(settings)), llava)
    titles = [
        [str(one.title) for one in tables(each, 80) if isinstance(one, Table)]
        for each in (found, without)
    ]
    # which tables there are besides depends on the width of measured times
    told_of = [sum(title.startswith("readable") for title in those) for those in titles]
    assert told_of == [1, 0]


def source(llava: LoadedMllm, settings: Settings) -> Source:
    return Source(llava.name, LoadOptions(), settings)


def dense(settings: Settings) -> Settings:
    return Settings(settings.plans, limit=2, batch_size=2)


def small(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: Retention, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs, fit=4, scored=4)

    return init


def test_places() -> None:
    assert parse_places(["all"], 6) == ("encoder", "projector", "llm:3", "llm:5")
    assert parse_places(["llm:10", "llm:2", "encoder"], 12) == ("encoder", "llm:2", "llm:10")
    for wrong in ("llm:6", "llm:", "projektor", "llm:-1"):
        with pytest.raises(DataError, match="no place") as caught:
            parse_places([wrong], 6)
        assert "llm:5" in caught.value.remedy
    with pytest.raises(DataError, match="projektor") as caught:
        parse_places(["projektor"], 6)
    assert "Did you mean 'projector'" in caught.value.remedy


def test_an_encoder_alone_is_refused() -> None:
    with pytest.raises(DataError, match="multimodal"):
        Reader(models.clip_vision(), ("encoder",))
