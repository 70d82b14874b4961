"""Finding a plan's budget for a model and data: the smallest, or the largest, that still holds."""

from tokenprune.lab.calibrate.goals import Flops, Goal, Time, Within
from tokenprune.lab.calibrate.run import Calibration, Target, calibrate

__all__ = ["Target", "Calibration", "Flops", "Goal", "Time", "Within", "calibrate"]
