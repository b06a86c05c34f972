"""What recall is, and how far a mean of it can be trusted: for calibration, and for a server that watches itself."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_DEVIATIONS = 1.645
"""Standard errors below the mean: the lower bound of a one-sided 95% interval."""


def recall_of(scores: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """The recall of an answer, by its scores and those of the exact one, both falling: a tie for the last place counts
    as found."""
    return np.count_nonzero(scores >= exact[-1]) / len(exact) if len(exact) else 1.0


def lower_bound(recalls: NDArray[np.float64]) -> float:
    """Of the mean recall of one query or more, at 95%."""
    return float(recalls.mean() - _DEVIATIONS * recalls.std() / np.sqrt(len(recalls)))


def chance_of(mean: float, promised: float, n: int) -> float:
    """At most how probable so low a mean of n recalls is, where the true mean is as promised, below 1.

    exp(-n KL(mean, promised)) with KL(a, p) = a ln(a / p) + (1 - a) ln((1 - a) / (1 - p)): Hoeffding, "Probability
    inequalities for sums of bounded random variables" (JASA 1963), theorem 1. It asks nothing of the distribution but
    that recalls lie between 0 and 1, and holds for queries drawn without replacement as well (section 6).
    """
    if mean >= promised:
        return 1.0
    divergence = (1 - mean) * math.log((1 - mean) / (1 - promised))
    if mean > 0:
        divergence += mean * math.log(mean / promised)
    return math.exp(-n * divergence)
