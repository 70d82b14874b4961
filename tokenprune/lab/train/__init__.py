"""Training learned strategies on a frozen model; `tokenprune train` on the command line."""

from tokenprune.lab.train.data import FileStream, ReferenceStream, Stream
from tokenprune.lab.train.run import Trained, train
from tokenprune.lab.train.settings import TrainSettings

__all__ = ["FileStream", "ReferenceStream", "Stream", "TrainSettings", "Trained", "train"]
