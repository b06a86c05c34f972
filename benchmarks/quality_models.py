"""How each model of benchmarks.quality scores users and carts; benchmarks.contenders tunes and fits them.

Each is a benchmarks.held_out_weeks.Model. Nothing is left out of the scores, and a cart's items weigh 1.
Checked by tests/test_quality_benchmark.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.held_out_weeks import Rows, Scores
from trainer.als import Embeddings
from trainer.interactions import Csr


@dataclass(frozen=True)
class VectorModel:
    """Nearcart's: users as they were trained, carts as the server encodes them."""

    embeddings: Embeddings

    def user_scores(self, users: Rows) -> Scores:
        return self.embeddings.user_vectors[users] @ self.embeddings.item_vectors.T

    def cart_scores(self, carts: Sequence[Rows]) -> Scores:
        encoder = self.embeddings.encoder()
        queries = np.stack([encoder.encode(cart, np.ones(len(cart), dtype=np.float32)) for cart in carts])
        return queries @ self.embeddings.item_vectors.T


@dataclass(frozen=True)
class PopularModel:
    popularity: Scores

    def user_scores(self, users: Rows) -> Scores:
        return np.tile(self.popularity, (len(users), 1))

    def cart_scores(self, carts: Sequence[Rows]) -> Scores:
        return np.tile(self.popularity, (len(carts), 1))


@dataclass(frozen=True)
class NeighbourModel:
    """The sum of the similarities to the items of a history, each times its weight, or to those of a cart."""

    histories: sparse.csr_matrix
    similarity: sparse.csr_matrix

    def user_scores(self, users: Rows) -> Scores:
        return (self.histories[users] @ self.similarity).toarray().astype(np.float32)

    def cart_scores(self, carts: Sequence[Rows]) -> Scores:
        return (cart_matrix(carts, self.similarity.shape[0]) @ self.similarity).toarray().astype(np.float32)


@dataclass(frozen=True)
class ImplicitModel:
    model: Any
    histories: sparse.csr_matrix

    def user_scores(self, users: Rows) -> Scores:
        return self._folded_in(self.histories[users])

    def cart_scores(self, carts: Sequence[Rows]) -> Scores:
        return self._folded_in(cart_matrix(carts, len(self.model.item_factors)))

    def _folded_in(self, bags: sparse.csr_matrix) -> Scores:
        vectors = self.model.recalculate_user(np.arange(bags.shape[0]), bags)
        scores: Scores = vectors @ self.model.item_factors.T
        return scores


def similarity_of(bags: sparse.csr_matrix, setting: Mapping[str, Any]) -> sparse.csr_matrix:
    """What implicit's item-item recommenders find in bags of items, a row each; with BM25's constants where given."""
    from implicit import nearest_neighbours as library
    from implicit.utils import ParameterWarning

    kinds = {
        "cosine": library.CosineRecommender,
        "tfidf": library.TFIDFRecommender,
        "bm25": library.BM25Recommender,
    }
    constants = {name: setting[name] for name in ("K1", "B") if name in setting}
    model = kinds[setting["similarity"]](K=setting["neighbours"], **constants)
    with warnings.catch_warnings():
        # TF-IDF and BM25 hand a matrix of another form to the library's own conversion, which warns.
        warnings.simplefilter("ignore", ParameterWarning)
        model.fit(bags, show_progress=False)
    return model.similarity


def matrix_of(entries: Csr) -> sparse.csr_matrix:
    arrays = (entries.values, entries.indices, entries.indptr)
    return sparse.csr_matrix(arrays, shape=(entries.n_rows, entries.n_columns))


def cart_matrix(carts: Sequence[Rows], n_items: int) -> sparse.csr_matrix:
    indptr = np.append(0, np.cumsum([len(cart) for cart in carts]))
    ones = np.ones(indptr[-1], dtype=np.float32)
    return sparse.csr_matrix((ones, np.concatenate(carts), indptr), shape=(len(carts), n_items))
