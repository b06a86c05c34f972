"""What recall is, and how far a mean of it can be trusted: for calibration, and for a server that watches itself."""

from __future__ import annotations

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
