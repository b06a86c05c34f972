"""How the parts of a recommender score all items: what evaluation ranks by.

The same sums as those that engine.recommender finds the best of, without a search. Checked by
tests/test_parts_scorer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.evidence import NO_ROWS, Evidence
from engine.histories import Histories
from engine.kinds import Kind
from engine.sparse_scan import add_rows
from trainer.cases import Cases
from trainer.evaluate import Scorer, Scores, encoded, popularity_scorer
from trainer.interactions import Csr, Interactions
from trainer.learned import Learned

EvidenceOf = Callable[[int], Evidence]
"""The evidence of a query by its number."""


@dataclass(frozen=True)
class PartsScorer:
    """Scores all items for numbered queries of one kind.

    vectors float32 (queries, d): those that the dense part is asked with, None where there is none. With only_evidence,
    what a query is not asked with has no score.
    """

    learned: Learned
    n_items: int
    kind: Kind
    evidence_of: EvidenceOf
    vectors: NDArray[np.float32] | None = None
    only_evidence: bool = False

    def scores(self, queries: NDArray[np.int32]) -> NDArray[np.float32]:
        """Float32 (queries, n_items), a new array."""
        scores = np.zeros((len(queries), self.n_items), dtype=np.float32)
        embeddings, weight = self.learned.embeddings, self.learned.dense_weight.of(self.kind)
        if embeddings is not None and self.vectors is not None and weight:
            np.matmul(self.vectors[queries] * np.float32(weight), embeddings.item_vectors.T, out=scores)
        touched = np.empty(self.n_items, dtype=np.int32)
        for part in self.learned.sparse:
            weight = part.weight.of(self.kind)
            if weight:
                arrays = part.memory.indptr, part.memory.items, part.memory.weights
                for row, query in enumerate(queries.tolist()):
                    rows, weights = part.bag(self.evidence_of(query), self.kind)
                    # No score is UNTOUCHED, so that none is listed.
                    add_rows(*arrays, rows, weights * np.float32(weight), scores[row], touched, 0)
        if self.only_evidence:
            leave_only(scores, [self.evidence_of(query).rows for query in queries.tolist()])
        return scores


def leave_only(scores: NDArray[np.float32], rows: Sequence[NDArray[np.int32]]) -> None:
    """-inf for all but some items of each query."""
    for of_query, kept in zip(scores, rows, strict=True):
        left = of_query[kept]
        of_query[:] = -np.inf
        of_query[kept] = left


def case_scorer(learned: Learned, cases: Cases) -> PartsScorer:
    """Scores items for cases: the dense part is asked with stored vectors where users have one, else folds in."""
    scorer = evidence_scorer(learned, cases.n_items, cases.kind, cases.evidence, folds_in=cases.users is None)
    if learned.embeddings is not None and cases.users is not None:
        scorer = replace(scorer, vectors=learned.embeddings.user_vectors[cases.users])
    return replace(scorer, only_evidence=cases.only_evidence)


def evidence_scorer(
    learned: Learned, n_items: int, kind: Kind, evidence: Sequence[Evidence], *, folds_in: bool = True
) -> PartsScorer:
    """Scores items for what queries are made of; the dense part folds each in."""
    vectors = None
    if folds_in and learned.embeddings is not None:
        vectors = encoded(learned.embeddings, _bags(evidence, n_items), "case").user_vectors
    return PartsScorer(learned, n_items, kind, evidence.__getitem__, vectors)


@dataclass(frozen=True)
class _Popular:
    """The most popular of what may be listed, the same scores for all queries."""

    scorer: Scorer
    cases: Cases

    @property
    def n_items(self) -> int:
        return self.scorer.n_items

    def scores(self, queries: NDArray[np.int32]) -> NDArray[np.float32]:
        scores = self.scorer.scores(queries)
        if self.cases.only_evidence:
            leave_only(scores, [self.cases.evidence[query].rows for query in queries.tolist()])
        return scores


def popular_scorer(train: Interactions, cases: Cases) -> Scores:
    """Ranks for cases by the number of users who like an item in training."""
    return _Popular(popularity_scorer(train, len(cases.evidence)), cases)


def user_scorer(learned: Learned, train: Interactions) -> PartsScorer:
    """Scores items for the users of a training, by row."""
    entries = train.by_user
    histories = Histories(entries.indptr, entries.indices, entries.values, learned.ages)
    vectors = None if learned.embeddings is None else learned.embeddings.user_vectors
    return PartsScorer(learned, train.n_items, "user", lambda user: histories.of(user, train.n_items), vectors)


def _bags(evidence: Sequence[Evidence], n_items: int) -> Csr:
    """What queries are made of, a row each."""
    indptr = np.cumsum([0, *(len(each.rows) for each in evidence)]).astype(np.int64)
    rows = np.concatenate([NO_ROWS, *(each.rows for each in evidence)])
    weights = np.concatenate([np.empty(0, dtype=np.float32), *(each.weights for each in evidence)])
    return Csr(indptr, rows, weights, n_columns=n_items)
