"""How far to trust a mean over users, and the difference between two models: bootstrap and randomization test.

Works from the numbers by user that trainer.metrics gives, NaN where a metric says nothing about a user. Users are what
is drawn, so whole rows are: all metrics see the same resamples. One seeded Generator makes everything random.
Held against plain loops and known answers by tests/test_comparison.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from trainer.errors import EvaluationError
from trainer.metrics import PerUser

Interval = tuple[float, float]

RESAMPLES = 2000
FLIPS = 10_000
LEVEL = 0.95

_BLOCK_DRAWS = 1 << 20
"""Draws held at a time, of resamples or flips: some 30 MiB at work, however many users there are."""


@dataclass(frozen=True)
class Difference:
    """The mean of first - second over the users whom both have a number for, its interval, and the p-value."""

    mean: float
    interval: Interval
    p: float


def intervals(
    per_user: Mapping[str, PerUser],
    generator: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Percentile bootstrap interval of the mean over users, by metric (Efron 1979; Efron and Tibshirani 1993, ch. 13).

    per_user: float64 (users,) by name, all of one length and each with a number that is not NaN. As many users as there
    are, drawn with replacement, `resamples` times; the interval leaves (1 - level) / 2 of the means out on each side.
    """
    if not per_user:
        return {}
    values = np.column_stack(list(per_user.values()))
    with threadpool_limits(1, "blas"):
        means = np.concatenate(list(_resampled_means(values, generator, resamples)))
    # A resample in which a metric says nothing about anybody has no mean.
    low, high = np.nanquantile(means, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(per_user)}


def compare(
    first: Mapping[str, PerUser],
    second: Mapping[str, PerUser],
    generator: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """First model minus second over the same users in the same order, by metric.

    The interval is that of the paired bootstrap, `intervals` of the differences. The p-value is that of the two-sided
    paired randomization test (Fisher 1935; recommended for retrieval by Smucker, Allan and Carterette 2007): if the
    models are alike, each difference could as well have the other sign; p = (1 + flips whose mean is at least as far
    from 0 as the one observed) / (1 + flips), which is never 0 (Phipson and Smyth 2010).

    Raises EvaluationError where no user has a number from both models.
    """
    differences = {name: first[name] - second[name] for name in first}
    for name, values in differences.items():
        if np.isnan(values).all():
            raise EvaluationError(f"{name}: none of the {len(values):,} users has a value from both models to compare")
    bounds = intervals(differences, generator, resamples=resamples, level=level)
    p = _sign_flip_p(differences, generator, flips)
    return {name: Difference(float(np.nanmean(values)), bounds[name], p[name]) for name, values in differences.items()}


def _resampled_means(
    values: NDArray[np.float64], generator: np.random.Generator, resamples: int
) -> Iterator[NDArray[np.float64]]:
    """Blocks of means (some resamples, metrics) of values (users, metrics): how often each user was drawn, times."""
    n_users = len(values)
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)
    for size in _blocks(resamples, n_users):
        drawn = generator.integers(n_users, size=(size, n_users))
        drawn += np.arange(size)[:, np.newaxis] * n_users
        times = np.bincount(drawn.ravel(), minlength=size * n_users).reshape(size, n_users).astype(np.float64)
        with np.errstate(invalid="ignore"):
            yield (times @ filled) / (times @ present.astype(np.float64))


def _sign_flip_p(differences: Mapping[str, PerUser], generator: np.random.Generator, flips: int) -> dict[str, float]:
    """The p-value by metric. A difference of 0 is the same under both signs, so users with nothing else drop out."""
    if not differences:
        return {}
    values = np.nan_to_num(np.column_stack(list(differences.values())))
    values = values[values.any(axis=1)]
    # Sums that are equal on paper differ in their last bits, by the order of summation, and must count as equal.
    observed = np.abs(values.sum(axis=0)) - 1e-9 * np.abs(values).sum(axis=0)
    as_far = np.zeros(values.shape[1], dtype=np.int64)
    with threadpool_limits(1, "blas"):
        for size in _blocks(flips, len(values)):
            signs = generator.integers(2, size=(size, len(values)), dtype=np.int8) * 2.0 - 1.0
            as_far += (np.abs(signs @ values) >= observed).sum(axis=0)
    return {name: float((1 + as_far[i]) / (1 + flips)) for i, name in enumerate(differences)}


def _blocks(n_draws: int, n_users: int) -> Iterator[int]:
    """Sizes that add up to n_draws, each of bounded memory."""
    size = max(1, _BLOCK_DRAWS // max(1, n_users))
    for start in range(0, n_draws, size):
        yield min(size, n_draws - start)
