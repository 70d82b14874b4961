import pytest

from tests.compare.conftest import llava_folder, pictures, timm_weights
from tokenprune.interface.loading import LoadedModel, LoadOptions
from tokenprune.lab.models import load_model
from tokenprune.reference import reference_model_path

__all__ = ["llava_folder", "pictures", "timm_weights"]


@pytest.fixture(scope="package")
def tiny(llava_folder: object) -> LoadedModel:
    return load_model(str(llava_folder), LoadOptions())


@pytest.fixture
def fresh(llava_folder: object) -> LoadedModel:
    """One that a test may break."""
    return load_model(str(llava_folder), LoadOptions())


@pytest.fixture(scope="package")
def reference() -> LoadedModel:
    return load_model(str(reference_model_path()), LoadOptions())
