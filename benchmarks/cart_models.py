"""How the contenders of benchmarks.carts score carts; benchmarks.cart_contenders tunes and fits them.

Each is a benchmarks.held_out_weeks.CartModel; item-KNN's is benchmarks.quality_models'. A cart's items weigh 1. Checked
by tests/test_parts_benchmarks.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from benchmarks.contenders import Setting
from benchmarks.held_out_weeks import Rows, Scores
from benchmarks.quality_models import cart_matrix, matrix_of
from engine.evidence import Evidence
from trainer.contexts import contexts_of
from trainer.fold_in import fold_in
from trainer.half_epoch import Penalty
from trainer.interactions import Csr, Interactions
from trainer.item_neighbours import PairRules, pair_rules
from trainer.learned import Learned
from trainer.parts_scorer import evidence_scorer
from trainer.threads import Threads


@dataclass(frozen=True)
class FoldedCarts:
    """Vectors of an epoch, with carts folded in exactly."""

    item_vectors: Scores
    penalty: Penalty

    def cart_scores(self, carts: Sequence[Rows]) -> Scores:
        bags = cart_matrix(carts, len(self.item_vectors))
        entries = Csr(bags.indptr.astype(np.int64), bags.indices.astype(np.int32), bags.data, bags.shape[1])
        vectors, table = fold_in(entries, self.item_vectors, self.penalty, 0)
        scores: Scores = vectors @ table.vectors.T
        return scores


@dataclass(frozen=True)
class PartsModel:
    learned: Learned
    n_items: int

    def cart_scores(self, carts: Sequence[Rows]) -> Scores:
        scorer = evidence_scorer(self.learned, self.n_items, "cart", [Evidence.of_rows(cart) for cart in carts])
        return scorer.scores(np.arange(len(carts), dtype=np.int32))


def rules_of(train: Interactions) -> PairRules:
    """The rules of pairs that two baskets hold, or histories where there are no baskets."""
    with Threads(0) as pool:
        return pair_rules(contexts_of(train), 2, pool)


@dataclass(frozen=True)
class RuleModel:
    weights: sparse.csr_matrix
    is_sum: bool

    @classmethod
    def of(cls, rules: PairRules, n_items: int, setting: Setting) -> RuleModel:
        """The strongest rules of each source."""
        of_rules = {"confidence": rules.confidences, "lift": rules.lifts}
        of_rules["cosine"] = np.sqrt(rules.supports * rules.lifts)
        strengths = of_rules[setting["measure"]]
        kept = np.flatnonzero(rules.counts >= setting["least_count"])
        kept = kept[np.lexsort((-strengths[kept], rules.sources[kept]))]
        sources = rules.sources[kept]
        kept = kept[np.arange(len(kept)) - np.searchsorted(sources, sources) < setting["rules"]]
        entries = (strengths[kept].astype(np.float32), (rules.sources[kept], rules.targets[kept]))
        return cls(sparse.csr_matrix(entries, shape=(n_items, n_items)), setting["sum_or_max"] == "sum")

    def cart_scores(self, carts: Sequence[Rows]) -> Scores:
        scores = np.zeros((len(carts), self.weights.shape[1]), dtype=np.float32)
        starts = self.weights.indptr
        for of_cart, cart in zip(scores, carts, strict=True):
            for item in cart.tolist():
                entries = slice(starts[item], starts[item + 1])
                targets, strengths = self.weights.indices[entries], self.weights.data[entries]
                of_cart[targets] = (
                    of_cart[targets] + strengths if self.is_sum else np.maximum(of_cart[targets], strengths)
                )
        return scores


def bags_of(train: Interactions, over: str) -> sparse.csr_matrix:
    """Baskets, or the users' histories where those are asked for or there are none."""
    baskets = train.baskets
    if over == "histories" or baskets is None or not len(baskets):
        return matrix_of(train.by_user)
    ones = np.ones(len(baskets.indices), dtype=np.float32)
    return sparse.csr_matrix((ones, baskets.indices, baskets.indptr), shape=(len(baskets), train.n_items))
