"""Training learned strategies on a frozen model; `tokenprune train` on the command line."""

from tokenprune.train.data import FileStream, ReferenceStream, Stream
from tokenprune.train.run import Trained, train
from tokenprune.train.settings import TrainSettings

__all__ = ["FileStream", "ReferenceStream", "Stream", "TrainSettings", "Trained", "train"]
