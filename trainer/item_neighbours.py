"""Item neighbours: each item's most similar items, by co-occurrence counts; and the counts as association rules.

    sim(s, j) = C[s, j] / (n_s^alpha n_j^beta)  C[s, j] / (C[s, j] + shrinkage)

with C of trainer.cooccurrence and n the weights of the contexts that hold an item, added up (trainer.contexts). With
alpha = beta = 1/2 that is the cosine of the items' columns (Sarwar et al., "Item-Based Collaborative Filtering
Recommendation Algorithms", 2001; weights wherever they come from, order and decay as in session-based nearest
neighbours: Ludewig and Jannach, "Evaluation of Session-based Recommendation Algorithms", 2018), with 1 and 0 the
confidence of the rule s -> j, with 1 and 1 its lift but for a factor. `shrinkage` keeps pairs that met once or twice by
chance from the top (Bell and Koren 2007). Checked by tests/test_item_neighbours.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from engine.errors import UsageError
from trainer.contexts import Contexts
from trainer.cooccurrence import UNORDERED, CountedRows, Order, count
from trainer.interactions import Csr
from trainer.sparse_rows import Rows, joined, keep_strongest
from trainer.threads import Threads

Similarity = Literal["cosine", "confidence", "lift"]
_WALK_EXPONENT = 0.9
_WALKED_NEIGHBOURS = 100
"""A step goes to so many neighbours, however many are kept in the end: fewer of those are the strongest of more."""
_WALKED_ROWS = 64
"""Rows of two steps that a thread holds at a time: each may have as many entries as there are items."""
EXPONENTS: dict[Similarity, tuple[float, float]] = {"cosine": (0.5, 0.5), "confidence": (1.0, 0.0), "lift": (1.0, 1.0)}
"""alpha and beta of the similarities that have a name."""


@dataclass(frozen=True)
class NeighbourSettings:
    """What makes items similar, and how many neighbours stay."""

    neighbours: int = 200
    """Entries of a row at most: the strongest."""
    source_exponent: float = 0.5
    """alpha: how much less an item says that many contexts hold."""
    target_exponent: float = 0.5
    """beta: how much less an item is worth that many contexts hold; 0 leaves popular items on top."""
    shrinkage: float = 10.0
    """Pairs that were together this much count half; 0 trusts a pair that met once. Of the hidden items of 2,000
    carts of completejourney's last four weeks, 0, 5, 10, 30 and 100 had .085, .117, .118, .115 and .112 in the top 10;
    of the bundled shop's .256, .258, .256, .254 and .250 (cosine)."""
    idf: bool = False
    """Whether similarities are multiplied by log(1 + N / n) of both items: N contexts, n of which hold the item."""
    sharpness: float = 1.0
    """Similarities are raised to this power before they add up: how much more a strong one counts than several weak
    ones."""
    two_steps: float = 0.0
    """What neighbours of neighbours count: with R the rows, each divided by its sum^0.9, they become M + two_steps M R,
    a walk of two steps (Cooper et al. 2014, "Random walks in recommender systems")."""
    order: Order = UNORDERED

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise UsageError(f"neighbours is {self.neighbours}; expected 1 or more")
        for name in ("source_exponent", "target_exponent"):
            if not 0 <= getattr(self, name) <= 2:
                raise UsageError(f"{name} is {getattr(self, name)}; expected from 0 to 2")
        if not 0 <= self.shrinkage <= 1e9:
            raise UsageError(f"shrinkage is {self.shrinkage}; expected from 0 to 1e9")
        if not 0.1 <= self.sharpness <= 10:
            raise UsageError(f"sharpness is {self.sharpness}; expected from 0.1 to 10")
        if not 0 <= self.two_steps <= 100:
            raise UsageError(f"two_steps is {self.two_steps}; expected from 0 to 100")

    @classmethod
    def named(cls, similarity: str, **others: Any) -> NeighbourSettings:
        """Settings with the exponents of a similarity: cosine, confidence or lift. Raises UsageError."""
        if similarity not in get_args(Similarity):
            raise UsageError(
                f"the similarity is {similarity!r}; expected one of {', '.join(get_args(Similarity))}, or exponents"
            )
        source, target = EXPONENTS[similarity]  # type: ignore[index]
        return cls(source_exponent=source, target_exponent=target, **others)


@dataclass(frozen=True)
class PairRules:
    """Rules s -> j as columns, by source, then target: who has `sources` int32 also has `targets` int32.

    `counts` float64 are the weights of the contexts that hold both, added up; `supports` float64 their share of all
    contexts, `confidences` float64 their share of those that hold the source, and `lifts` float64 how many times the
    target's own share that is. Baskets of one item are no contexts, and so are not in any of the shares.
    """

    sources: NDArray[np.int32]
    targets: NDArray[np.int32]
    counts: NDArray[np.float64]
    supports: NDArray[np.float64]
    confidences: NDArray[np.float64]
    lifts: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sources)


def item_neighbours(
    contexts: Contexts,
    settings: NeighbourSettings,
    pool: Threads,
    on_progress: Callable[[float], None] | None = None,
) -> Csr:
    """Rows s of the strongest sim(s, j), at most `neighbours` in a row, none on the diagonal: (n_items, n_items).

    Items that no context holds have empty rows. `on_progress` is told the share that is done.
    """
    weights = contexts.item_weights()
    sources = _power(weights, -settings.source_exponent)
    targets = _power(weights, -settings.target_exponent)
    if settings.idf:
        held = np.bincount(contexts.indices, minlength=contexts.n_items)
        idf = np.log1p(len(contexts) / np.maximum(held, 1))
        sources, targets = sources * idf, targets * idf

    def kept(rows: CountedRows) -> Rows:
        similarities = rows.counts * targets[rows.indices]
        similarities *= np.repeat(sources[rows.first : rows.first + len(rows.indptr) - 1], np.diff(rows.indptr))
        if settings.shrinkage > 0:
            similarities *= rows.counts / (rows.counts + settings.shrinkage)
        if settings.sharpness != 1:
            similarities **= settings.sharpness
        most = _WALKED_NEIGHBOURS if settings.two_steps > 0 else settings.neighbours
        return keep_strongest(rows.indptr, rows.indices, similarities.astype(np.float32), most)

    parts: dict[int, Rows] = {}
    n_blocks = count(contexts, settings.order, pool, lambda block, rows: parts.update({block: kept(rows)}), on_progress)
    rows = joined([parts[block] for block in range(n_blocks)], contexts.n_items)
    return _walked(rows, settings, pool) if settings.two_steps > 0 else rows


def _walked(rows: Csr, settings: NeighbourSettings, pool: Threads) -> Csr:
    """M + two_steps M R, some rows at a time, without the diagonal, and cut again."""
    once = sparse.csr_matrix((rows.values, rows.indices, rows.indptr), shape=(rows.n_rows, rows.n_columns))
    sums = np.asarray(once.sum(axis=1)).ravel()
    scales = np.divide(settings.two_steps, sums**_WALK_EXPONENT, out=np.zeros_like(sums), where=sums > 0)
    again = sparse.diags(scales).astype(np.float32) @ once
    starts, parts = range(0, rows.n_rows, _WALKED_ROWS), dict[int, Rows]()

    def walk(piece: int) -> None:
        first = starts[piece]
        block = once[first : first + _WALKED_ROWS]
        both = (block + block @ again).tocsr()
        own = both.indices == np.repeat(np.arange(first, first + both.shape[0]), np.diff(both.indptr))
        both.data[own] = 0
        indptr, indices = both.indptr.astype(np.int64), both.indices.astype(np.int32)
        parts[piece] = keep_strongest(indptr, indices, both.data.astype(np.float32), settings.neighbours)

    pool.each(walk, len(starts))
    return joined([parts[piece] for piece in range(len(starts))], rows.n_columns)


def pair_rules(
    contexts: Contexts, min_count: float, pool: Threads, on_progress: Callable[[float], None] | None = None
) -> PairRules:
    """The rules between all pairs of items that contexts of the weight `min_count` or more hold together.

    The weights of the contexts count: for plain numbers of baskets give contexts of weight 1. Raises UsageError.
    """
    if not min_count > 0:
        raise UsageError(f"min_count is {min_count}; expected more than 0 contexts")
    parts: dict[int, list[NDArray[Any]]] = {}

    def take(block: int, rows: CountedRows) -> None:
        sources = rows.first + np.repeat(np.arange(len(rows.indptr) - 1, dtype=np.int32), np.diff(rows.indptr))
        often = np.flatnonzero(rows.counts >= min_count)
        often = often[np.lexsort((rows.indices[often], sources[often]))]
        parts[block] = [sources[often].astype(np.int32), rows.indices[often], rows.counts[often]]

    n_blocks = count(contexts, UNORDERED, pool, take, on_progress)
    nothing = [np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32), np.empty(0)]
    columns = zip(nothing, *(parts[block] for block in range(n_blocks)), strict=True)
    sources, targets, counts = (np.concatenate(column) for column in columns)
    weights, total = contexts.item_weights(), float(contexts.weights.sum(dtype=np.float64))
    confidences = counts / weights[sources]
    lifts = confidences * (total / weights[targets])
    return PairRules(sources, targets, counts, counts / total, confidences, lifts)


def _power(weights: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """weights^exponent, 0 where the weight is."""
    powers = np.zeros(len(weights))
    held = weights > 0
    powers[held] = weights[held] ** exponent
    return powers
