"""What benchmarks ask models beside vectors: a training, cases of it with one item to be found, and numbers by case.

A model is learned, its parts are weighed (trainer.blending) on cases that the training does not hold, and then learned
again from more and measured: what `nearcart train --model` does, with cuts that are the benchmark's own. Rankings are
those of trainer.evaluate. Checked by tests/test_parts_benchmarks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.evidence import NO_ROWS, Evidence
from engine.kinds import ByKind, Kind
from trainer.blending import Found, Setting, find_settings, with_settings
from trainer.cases import Cases
from trainer.evaluate import HeldOut, Scores, catalogue_ranking
from trainer.interactions import Csr, Interactions
from trainer.learned import Learned
from trainer.metrics import Metric, PerUser, measure
from trainer.model_options import ALS, PARTS_OF, ModelOptions
from trainer.parts_scorer import PartsScorer, evidence_scorer
from trainer.sparse_models import learn_parts

NEIGHBOURS = 100
"""That an item keeps, where options do not say: a training finds how many are enough."""
Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Asked:
    """A training and cases of what it does not hold; `repeats` as trainer.blending weighs what comes back with."""

    train: Interactions
    cases: Cases
    repeats: Cases | None = None


def newest_of(rows: Rows, places: NDArray[np.int64]) -> Evidence:
    """Items in an order as evidence of weight 1: each counts once, by its newest place. Rows below 0 are unknown."""
    rows, places = rows[rows >= 0], places[rows >= 0]
    order = np.lexsort((places, rows))
    rows, places = rows[order], places[order]
    is_last = np.append(rows[1:] != rows[:-1], True) if len(rows) else np.empty(0, dtype=np.bool_)
    rows, places = rows[is_last], places[is_last]
    ages = len(np.unique(places)) - 1 - np.searchsorted(np.unique(places), places)
    return Evidence(rows.astype(np.int32), np.ones(len(rows), dtype=np.float32), ages.astype(np.int32))


def one_to_find(kind: Kind, shown: Sequence[Evidence], targets: Rows, n_items: int, *, may_return: bool) -> Cases:
    """Cases of one target each, -1 where training does not know it; what is shown competes only where it may return."""
    items = tuple(np.array([target], dtype=np.int32) if target >= 0 else NO_ROWS for target in targets.tolist())
    n = len(items)
    held_out = HeldOut(
        users=np.arange(n, dtype=np.int32),
        items=items,
        n_relevant=np.ones(n, dtype=np.int64),
        relevant_price=np.zeros(n),
        prices=np.full(n_items, np.nan, dtype=np.float32),
        n_unknown_users=0,
        n_unknown_items=int(np.count_nonzero(targets < 0)),
    )
    indptr = np.cumsum([0, *(len(each.rows) for each in shown)]).astype(np.int64)
    rows = np.concatenate([NO_ROWS, *(each.rows for each in shown)]).astype(np.int32)
    excluded = Csr(indptr, rows, np.ones(len(rows), dtype=np.float32), n_columns=n_items)
    return Cases(kind, shown, held_out, None if may_return else excluded)


def learn(
    train: Interactions, names: Collection[str], options: ModelOptions, vectors: Callable[[], Learned]
) -> Learned:
    """The parts of these names from a training; `vectors` trains the dense one, where it is among them."""
    dense = vectors() if ALS in names else Learned(None)
    neighbours = dict.fromkeys((name for name in names if name != ALS), options.neighbours or NEIGHBOURS)
    return replace(dense, sparse=learn_parts(train, options, neighbours))


def weigh(learned: Learned, asked: Asked) -> Found:
    """What each part counts, by the cases that are asked."""
    return find_settings(learned, [asked.cases], asked.repeats)


def only(learned: Learned, model: str) -> Learned:
    """The parts of a model, of those of all models."""
    names = PARTS_OF[model]
    sparse = tuple(part for part in learned.sparse if part.name in names)
    return replace(learned, embeddings=learned.embeddings if ALS in names else None, sparse=sparse)


def parts_of(found: Found, kind: Kind) -> dict[str, list[float]]:
    """The weight of each part that counts, and how fast it forgets: what raw rows keep of what was found."""
    return {name: [each.weight.of(kind), each.recency.of(kind)] for name, each in found.settings.items()}


def settings_of(parts: Mapping[str, Sequence[float]]) -> dict[str, Setting]:
    """The same again, for both kinds."""
    return {name: Setting(ByKind(*2 * [weight]), ByKind(*2 * [recency])) for name, (weight, recency) in parts.items()}


def with_found(learned: Learned, found: Found) -> Learned:
    return with_settings(learned, found.settings)


def scorer_of(learned: Learned, cases: Cases, n_items: int) -> PartsScorer:
    """Scores the cases; vectors are folded in, also for users whose history is stored."""
    return evidence_scorer(learned, n_items, cases.kind, cases.evidence)


def measured(scorer: Scores, cases: Cases, metrics: Sequence[Metric]) -> dict[str, PerUser]:
    """Each metric by case."""
    depth = max(metric.k for metric in metrics)
    return measure(metrics, catalogue_ranking(scorer, cases.excluded, cases.held_out, depth)).per_user


def mean(numbers: dict[str, PerUser], metric: str) -> float:
    return float(numbers[metric].mean())


@dataclass(frozen=True)
class MatrixScorer:
    """A rival that is given bags of items and answers with scores: `answer` from evidence to float32 (n, n_items)."""

    n_items: int
    shown: Sequence[Evidence]
    answer: Callable[[Sequence[Evidence]], NDArray[np.float32]]

    def scores(self, queries: NDArray[np.int32]) -> NDArray[np.float32]:
        return self.answer([self.shown[query] for query in queries.tolist()])
