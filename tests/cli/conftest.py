from tests.compare.conftest import llava_folder, pictures, timm_weights
from tests.studies.conftest import model, study

__all__ = ["llava_folder", "model", "pictures", "study", "timm_weights"]
