"""How the parts of a recommender score all items: what evaluation ranks by.

The same sums as those that engine.recommender finds the best of, without a search. Checked by
tests/test_parts_scorer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.evidence import Evidence
from engine.kinds import Kind
from engine.sparse_scan import add_rows
from trainer.learned import Learned

EvidenceOf = Callable[[int], Evidence]
"""The evidence of a query by its number."""


@dataclass(frozen=True)
class PartsScorer:
    """Scores all items for numbered queries of one kind.

    vectors float32 (queries, d): those that the dense part is asked with, None where there is none.
    """

    learned: Learned
    n_items: int
    kind: Kind
    evidence_of: EvidenceOf
    vectors: NDArray[np.float32] | None = None

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
        return scores


def cart_scorer(learned: Learned, n_items: int, carts: Sequence[Evidence]) -> PartsScorer:
    """Scores items for carts; the dense part folds each one in."""
    vectors = None
    if learned.embeddings is not None:
        encoder = learned.embeddings.encoder()
        vectors = np.empty((len(carts), encoder.item_vectors.shape[1]), dtype=np.float32)
        for i, cart in enumerate(carts):
            vectors[i] = encoder.encode(cart.rows, cart.weights)
    return PartsScorer(learned, n_items, "cart", carts.__getitem__, vectors)
