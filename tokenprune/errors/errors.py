"""Every error a user can meet, each saying what was wrong, where, and what would be right."""

#: Letters of a message, a place or a remedy; what is longer is cut (ours).
LONGEST = 2000


def bounded(text: str, most: int = LONGEST) -> str:
    """A text of at most so many letters, with a word about what was cut off.

    Inputs of any length can stand in messages, and a name of a megabyte helps nobody.
    """
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} letters)"


class TokenpruneError(Exception):
    """Base of all errors of this package.

    Args:
        message: what was wrong.
        where: file, key, layer or model part it was found in.
        remedy: what would be right.
    """

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        self.message, self.where, self.remedy = map(bounded, (message, where, remedy))
        super().__init__(self.message)

    def __str__(self) -> str:
        """One readable paragraph: place, problem, remedy."""
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.message}" + (f" {self.remedy}" if self.remedy else "")


class PictureWarning(UserWarning):
    """A plan is in force that will refuse calls with some pictures, which only a call tells."""


class BackendWarning(UserWarning):
    """A backend's own kernel didn't pass its self-test, so the same is computed more slowly."""


class UncountedWarning(UserWarning):
    """Operators whose FLOPs no formula tells ran while FLOPs were counted, so these are too few."""


class RecordingWarning(UserWarning):
    """A pass that was to be recorded as a graph can't be, and runs as usual."""


class PlanError(TokenpruneError):
    """A plan file or mapping that can't be read or doesn't validate."""


class UnknownNameError(PlanError):
    """A strategy, adapter, signal or key of that name doesn't exist."""


class BudgetError(PlanError):
    """A budget that can't be reached; `nearest` is the closest feasible value."""

    def __init__(
        self, message: str, *, where: str = "", remedy: str = "", nearest: float | None = None
    ) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.nearest = nearest


class LayerError(PlanError):
    """A plan names a layer that the model doesn't have or doesn't use."""


class SignalError(TokenpruneError):
    """A strategy needs a signal that the adapter can't supply."""


class UnsupportedModelError(TokenpruneError):
    """No adapter fits the model, or the adapter refuses a part of it."""


class AlreadyAttachedError(TokenpruneError):
    """The model carries a plan already."""


class ReductionError(TokenpruneError):
    """A strategy answered with something that isn't a valid reduction or misses its budget."""


class NonFiniteError(TokenpruneError):
    """Hidden states or scores hold NaN or infinity where a selection had to be made."""


class NotMeasuredError(TokenpruneError):
    """Something was asked for that the latest call didn't measure or record."""


class CheckpointError(TokenpruneError):
    """A damaged, foreign or misshapen checkpoint."""


class PluginError(TokenpruneError):
    """A plugin failed to import, registered a taken name or implements an unknown hook."""


class StrategyFailedError(TokenpruneError):
    """A strategy raised while it ran; the original exception is the cause.

    The message names the innermost line of the strategy's own code that the exception came through.
    """


class UnsupportedCallError(TokenpruneError):
    """The model was called in a way that a pruned model can't serve correctly."""


class DataError(TokenpruneError):
    """Images, labels or a task can't be read."""


class BackendUnavailableError(TokenpruneError):
    """The kernel backend that was asked for can't run here."""


class DependencyError(TokenpruneError):
    """A library is missing, or of a version that isn't served."""
