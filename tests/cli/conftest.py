from tests.compare.conftest import llava_folder, pictures, timm_weights

__all__ = ["llava_folder", "pictures", "timm_weights"]
