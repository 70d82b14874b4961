from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenprune_strategies import plugin
from tokenprune_strategies.shared import checkpoint
from tokenprune_strategies.shared.checkpoint import FORMAT, VERSION
from tokenprune_strategies.vistog import VisToG, VisToGParams
from torch import Tensor

from tokenprune.errors import CheckpointError
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.plan import dump_plan, load_plan

RIGHT = {
    "format": FORMAT, "version": VERSION, "strategy": "vistog", "groups": "3", "dim": "4",
}  # fmt: skip


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, Tensor]:
    path = tmp_path / "right.safetensors"
    VisToG(VisToGParams(init_seed=0, groups=3, dim=4)).save_checkpoint(path)
    loaded: dict[str, Tensor] = load_file(path)
    return loaded


def refused(path: Path, **params: int) -> str:
    with pytest.raises(CheckpointError) as caught:
        VisToG(VisToGParams(checkpoint=path, **params))
    assert path.name in str(caught.value)
    return str(caught.value)


def test_the_metadata_says_what_it_is(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "same.safetensors"
    save_file(tensors, path, RIGHT)
    assert VisToG(VisToGParams(checkpoint=path, groups=3, dim=4)).groups == 3


def test_missing_and_damaged_files(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    assert "can't be read" in refused(tmp_path / "absent.safetensors")
    assert "can't be read" in refused(tmp_path)
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(b"not a checkpoint at all")
    assert "can't be read" in refused(path)
    save_file(tensors, path, RIGHT)
    path.write_bytes(path.read_bytes()[:-7])
    assert "can't be read" in refused(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "'format' as 'other'"),
        ({"strategy": "quecc"}, "'strategy' as 'quecc', not 'vistog'"),
        ({"version": "2"}, "'version' as '2'"),
        ({"groups": "-3"}, "'groups' as '-3'"),
        ({"dim": "four"}, "'dim' as 'four'"),
        ({"groups": "5"}, "'semantic' is (3, 4), where (5, 4) belongs"),
        ({"dim": "100000000"}, "where (3, 100000000) belongs"),
    ],
)
def test_foreign_metadata(
    tmp_path: Path, tensors: dict[str, Tensor], change: dict[str, str], message: str
) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(tensors, path, RIGHT | change)
    assert message in refused(path)


def test_no_metadata(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "bare.safetensors"
    save_file(tensors, path)
    assert "'format' as ''" in refused(path)


def test_wrong_tensors(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "wrong.safetensors"
    save_file({k: v for k, v in tensors.items() if k != "semantic"}, path, RIGHT)
    assert "'semantic' is missing" in refused(path)
    save_file(tensors | {"more": torch.zeros(1)}, path, RIGHT)
    assert "'more' is (1,), where nothing belongs" in refused(path)
    save_file(tensors | {"semantic": torch.full((3, 4), torch.nan)}, path, RIGHT)
    assert "finite floats" in refused(path)
    save_file(tensors | {"semantic": torch.zeros(3, 4, dtype=torch.int64)}, path, RIGHT)
    assert "finite floats" in refused(path)


def test_the_plan_and_the_checkpoint_must_agree(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "right.safetensors"
    assert "it has groups 3, and the plan asks for 4" in refused(path, groups=4)
    assert "it has dim 4, and the plan asks for 8" in refused(path, dim=8)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the installed package, with one checkpoint that ships."""
    monkeypatch.setattr(checkpoint.resources, "files", lambda package: tmp_path)
    path = tmp_path / "weights" / "vistog" / "tiny-3.safetensors"
    path.parent.mkdir(parents=True)
    VisToG(VisToGParams(init_seed=0, groups=3, dim=4)).save_checkpoint(path, half=True)
    return path


def test_a_checkpoint_that_ships_is_named_not_located(bundle: Path) -> None:
    assert VisToG.shipped() == {"tiny-3": bundle}
    assert VisToG.from_params(checkpoint="bundled:tiny-3").groups == 3  # type: ignore[attr-defined]
    data = {
        "schema_version": 1,
        "stages": [
            {
                "at": "pre_llm", "strategy": "vistog", "keep": 3,
                "params": {"checkpoint": "bundled:tiny-3"},
            }
        ],
    }  # fmt: skip
    plan = load_plan(data)
    assert "checkpoint: bundled:tiny-3\n" in dump_plan(plan)
    assert plan.stages[0].params == {"checkpoint": "bundled:tiny-3"}


@pytest.mark.parametrize("name", ["tiny-4", "", "../vistog/tiny-3", "tiny-3.safetensors"])
def test_a_name_that_does_not_ship_is_refused_with_those_that_do(bundle: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="ships with tokenprune") as caught:
        VisToG.from_params(checkpoint=f"bundled:{name}")
    assert "tiny-3" in caught.value.remedy


def test_what_really_ships_can_be_built() -> None:
    kinds: list[type] = []
    plugin.register_strategies(kinds.append)
    learned = [kind for kind in kinds if issubclass(kind, TrainableStrategy)]
    assert learned
    for kind in learned:
        for name, path in kind.shipped().items():
            assert path.is_file()
            with safe_open(path, framework="pt") as file:
                facts = file.metadata()
                assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
            assert {"model", "keep"} <= set(facts), name
            assert kind.from_params(checkpoint=f"bundled:{name}").modules() is not None


def test_half_precision_on_disk_and_single_in_memory(bundle: Path) -> None:
    tensors: dict[str, Tensor] = load_file(bundle)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    loaded = VisToG(VisToGParams(checkpoint=bundle))
    weights = loaded.modules().state_dict()
    assert all(torch.equal(weights[name], value.float()) for name, value in tensors.items())


def test_facts_are_kept_and_cannot_pretend(tmp_path: Path) -> None:
    path = tmp_path / "facts.safetensors"
    strategy = VisToG(VisToGParams(init_seed=0, groups=3, dim=4))
    strategy.save_checkpoint(path, {"model": "tiny", "groups": "9", "strategy": "other"})
    found = checkpoint.read(path, "vistog")
    assert (found.facts["model"], found.facts["groups"]) == ("tiny", "3")


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    strategy = VisToG(VisToGParams(init_seed=0, groups=3, dim=4))
    with torch.no_grad():
        strategy.companions()[0, 0] = 1e6
    strategy.save_checkpoint(path)
    with pytest.raises(CheckpointError, match="'semantic' isn't finite"):
        strategy.save_checkpoint(path, half=True)
