"""What answers are scored by: a plug, so that plugins can bring metrics of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenprune.errors import DataError, TokenpruneError
from tokenprune.interface.metric import Answered, Metric
from tokenprune.lab.data.question import plain
from tokenprune.lab.kinds import METRICS
from tokenprune.plugins.host import host

ACCURACY = "accuracy"


class Accuracy:
    """1 where the answer is the right one but for case, outer spaces and closing marks."""

    name = ACCURACY

    def score(self, samples: Sequence[Answered]) -> list[float]:
        """See `Metric`."""
        return [float(plain(sample.answer) == plain(sample.right)) for sample in samples]


def chosen_metrics(names: Sequence[str]) -> list[Metric]:
    """Metrics by name, `accuracy` first.

    Raises:
        DataError: there is none of a name; the nearest is suggested.
    """
    known = host().things(METRICS)
    chosen = dict.fromkeys((ACCURACY, *names))
    for name in chosen:
        if name not in known:
            remedy = host().advice(METRICS, name)
            raise DataError(f"there is no metric '{name}'.", where="metrics", remedy=remedy)
    return [known[name] for name in chosen]


def scores(metrics: Sequence[Metric], samples: Sequence[Answered]) -> list[dict[str, float]]:
    """Every metric's number for every sample.

    Raises:
        TokenpruneError: a metric raises, or doesn't give one finite number a sample.
    """
    columns = {metric.name: _scored(metric, samples) for metric in metrics}
    return [{name: values[row] for name, values in columns.items()} for row in range(len(samples))]


def _scored(metric: Metric, samples: Sequence[Answered]) -> list[float]:
    try:
        values = [float(value) for value in metric.score(samples)]
    except Exception as error:
        raise TokenpruneError(
            f"the metric raised {type(error).__name__}: {error}.", where=metric.name
        ) from error
    if len(values) != len(samples) or not all(map(math.isfinite, values)):
        raise TokenpruneError(
            f"the metric gave {len(values)} numbers for {len(samples)} samples, or some of them"
            " aren't finite.",
            where=metric.name,
            remedy="Give one finite number a sample.",
        )
    return values
