"""How much of the encoder's information can still be read from the tokens that a plan keeps.

The probe is no pruning method. It follows VisPer-LM (arXiv 2412.09585), which reads expert features
from an LLM's states; reading the encoder's own features from pruned states is our adaptation.
"""

from tokenprune.lab.probe.fit import Probe, fit_probe
from tokenprune.lab.probe.resampler import Resampler, sinusoid
from tokenprune.lab.probe.states import States

__all__ = ["Probe", "Resampler", "States", "fit_probe", "sinusoid"]
