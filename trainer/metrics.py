"""Ranking metrics at k, from which places of a ranking are hits. Nothing here knows where the ranking came from.

Two published definitions of recall differ, so they have two names: `recall@k` divides by the number of test items
(LightGCN's protocol), `recall@k/min` by min(k, that number) (Liang et al. 2018). NDCG's ideal ranking has min(k, test
items) hits. Each is the mean over the ranked users. Held against tests/reference.py by tests/test_metrics.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.errors import EvaluationError

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
PerUser = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One metric at one depth; `name` is how it is asked for and printed, such as recall@20/min."""

    name: str
    kind: str
    k: int

    def per_user(self, hits: Hits, n_relevant: Counts) -> PerUser:
        """The metric of each user: hits bool (users, depth >= k) by place, n_relevant int64 (users,), all positive."""
        return _KINDS[self.kind](hits[:, : self.k], n_relevant)


def parse_metrics(names: str) -> tuple[Metric, ...]:
    """Metrics from a comma-separated list such as "recall@20,recall@20/min,ndcg@20". Raises EvaluationError."""
    metrics = []
    for name in filter(None, (each.strip().lower() for each in names.split(","))):
        match = re.fullmatch(r"([a-z]+)@([1-9][0-9]{0,3})(/min)?", name)
        kind = "" if match is None else match[1] + (match[3] or "")
        if match is None or kind not in _KINDS:
            known = ", ".join(kind.replace("/min", "@k/min") if "/" in kind else f"{kind}@k" for kind in _KINDS)
            raise EvaluationError(f"unknown metric {name!r}: expected one of {known}, with a number for k")
        metrics.append(Metric(name, kind, int(match[2])))
    if not metrics:
        raise EvaluationError("no metric was named: expected a list such as recall@20,ndcg@20")
    return tuple(metrics)


def summarize(metrics: Sequence[Metric], hits: Hits, n_relevant: Counts) -> dict[str, float]:
    """The mean of each metric over the users, by name."""
    return {metric.name: float(metric.per_user(hits, n_relevant).mean()) for metric in metrics}


def _recall(hits: Hits, n_relevant: Counts) -> PerUser:
    found: PerUser = hits.sum(axis=1) / n_relevant
    return found


def _recall_min(hits: Hits, n_relevant: Counts) -> PerUser:
    return _recall(hits, np.minimum(n_relevant, hits.shape[1]))


def _precision(hits: Hits, n_relevant: Counts) -> PerUser:
    return _recall(hits, np.full_like(n_relevant, hits.shape[1]))


def _ndcg(hits: Hits, n_relevant: Counts) -> PerUser:
    discounts = 1.0 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.cumsum(discounts)[np.minimum(n_relevant, hits.shape[1]) - 1]
    gain: PerUser = (hits @ discounts) / ideal
    return gain


def _mrr(hits: Hits, n_relevant: Counts) -> PerUser:
    first: PerUser = np.asarray(hits.any(axis=1) / (hits.argmax(axis=1) + 1.0))
    return first


def _hit_rate(hits: Hits, n_relevant: Counts) -> PerUser:
    hit: PerUser = np.asarray(hits.any(axis=1), dtype=np.float64)
    return hit


_KINDS: Mapping[str, Callable[[Hits, Counts], PerUser]] = {
    "recall": _recall,
    "recall/min": _recall_min,
    "ndcg": _ndcg,
    "precision": _precision,
    "mrr": _mrr,
    "hr": _hit_rate,
}
