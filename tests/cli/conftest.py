import transformers

from tests.compare.conftest import llava_folder, pictures, timm_weights
from tests.studies.conftest import model, study

__all__ = ["llava_folder", "model", "pictures", "study", "timm_weights"]

# its log goes to what stderr is when it is imported first: inside of a command that a test runs,
# to a stream that is closed when the command ends
assert transformers
