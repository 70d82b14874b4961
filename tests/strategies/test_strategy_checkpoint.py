from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenprune_strategies.checkpoint import FORMAT, VERSION
from tokenprune_strategies.vistog import VisToG, VisToGParams
from torch import Tensor

from tokenprune.errors import CheckpointError

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
