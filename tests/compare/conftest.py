from pathlib import Path

import pytest

from tests.compare.tiny import save_llava, save_pictures, save_timm
from tokenprune.interface.loading import LoadedModel, LoadOptions
from tokenprune.lab.models import load_model


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def llava(llava_folder: Path) -> LoadedModel:
    return load_model(str(llava_folder), LoadOptions())


@pytest.fixture(scope="session")
def timm_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm(tmp_path_factory.mktemp("timm") / "weights.safetensors")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pictures(tmp_path_factory.mktemp("pictures"))
