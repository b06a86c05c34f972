"""Item regression: each item foretold from its most similar ones, all at once, by ridge regression.

Ning and Karypis, "SLIM: Sparse Linear Methods for Top-N Recommender Systems" (2011), with candidates chosen first
(fsSLIM) and a ridge instead of the elastic net; with all items as candidates it is EASE (Steck, "Embarrassingly Shallow
Autoencoders for Sparse Data", 2019, equation 8). X has a row for each context (trainer.contexts), with the root of its
weight where it holds an item, and G = X'X: unordered co-occurrence counts, with the items' own weights n_s on the
diagonal. Item j has as candidates S the items of the largest (shrunk) cosine with it, and weights

    b = (G_SS + D)^(-1) G_Sj,    D_s = regularization * mean(n)^(1 - nu) n_s^nu,   nu = `regularization_exponent`.

G is exact and never held: its rows are counted once for the candidates, and again for each group of targets, whose
matrices fit into a bounded room (trainer.regression_systems). Checked by tests/test_item_regression.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from trainer.contexts import Contexts
from trainer.errors import TrainingDiverged
from trainer.interactions import Csr
from trainer.item_neighbours import NeighbourSettings, item_neighbours
from trainer.regression_systems import NoPivot, Systems, solve_systems
from trainer.sparse_rows import Rows, joined, keep_strongest
from trainer.threads import Threads

_CUT_ROWS = 1024
"""Rows that a thread cuts at a time."""
_COUNTING_SHARE = 0.1
"""What finding the candidates takes of the whole, about, for the progress alone."""


@dataclass(frozen=True)
class RegressionSettings:
    """How many items foretell another one, and how far their weights are held back."""

    candidates: int = 100
    """Items that a target is foretold from, at most."""
    shrinkage: float = 10.0
    """Of the cosines that candidates are chosen by, as in trainer.item_neighbours."""
    neighbours: int = 200
    """Entries of a row of the result, the strongest by |weight|: a popular item is a candidate of very many."""
    regularization: float = 1.0
    """The penalty, as a multiple of the items' mean weight (or of each item's own). Of the hidden items of
    trainer.item_neighbours, 0.5, 1, 2 and 5 had .122, .131, .130 and .128 (completejourney) and .323, .318, .309 and
    .295 (the bundled shop) in the top 10."""
    regularization_exponent: float = 0.0
    """How the penalty of a candidate grows with its weight: 0 the same for all, 1 in proportion."""

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= 5_000:
            raise UsageError(f"candidates is {self.candidates}; expected from 1 to 5,000")
        if self.neighbours < 1:
            raise UsageError(f"neighbours is {self.neighbours}; expected 1 or more")
        if not 0 <= self.shrinkage <= 1e9:
            raise UsageError(f"shrinkage is {self.shrinkage}; expected from 0 to 1e9")
        if not 1e-6 <= self.regularization <= 1e9:
            raise UsageError(f"regularization is {self.regularization}; expected from 0.000001 to 1e9")
        if not 0 <= self.regularization_exponent <= 2:
            raise UsageError(f"regularization_exponent is {self.regularization_exponent}; expected from 0 to 2")

    def penalties(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """D_s, float64 (n_items,), of items with these weights; zeros where no item has any."""
        held = weights > 0
        if not held.any():
            return np.zeros(len(weights))
        mean = weights[held].mean()
        return np.asarray(self.regularization * mean * (weights / mean) ** self.regularization_exponent)


def item_regression(
    contexts: Contexts,
    settings: RegressionSettings,
    pool: Threads,
    on_progress: Callable[[float], None] | None = None,
) -> Csr:
    """Rows s of the weights b_j of s in what foretells j: float32 (n_items, n_items), signed, none on the diagonal.

    At most `neighbours` in a row; items that no context holds have empty rows. `on_progress` is told the share that is
    done. Raises TrainingDiverged where weights are no numbers.
    """

    def telling(start: float, share: float) -> Callable[[float], None]:
        return lambda done: on_progress(start + share * done) if on_progress else None

    cosine = NeighbourSettings.named("cosine", neighbours=settings.candidates, shrinkage=settings.shrinkage)
    candidates = item_neighbours(contexts, cosine, pool, telling(0.0, _COUNTING_SHARE))
    weights = contexts.item_weights()
    try:
        found = solve_systems(
            Systems.of(candidates),
            contexts,
            weights + settings.penalties(weights),
            pool,
            telling(_COUNTING_SHARE, 1 - _COUNTING_SHARE),
        )
    except NoPivot as error:
        raise TrainingDiverged(
            f"the regression of item row {error.target} has no solution: found a penalty lost in rounding; "
            f"raise the regularization, which is {settings.regularization:g}"
        ) from error
    rows = Csr(candidates.indptr, candidates.indices, found, n_columns=contexts.n_items).transposed()
    return _cut(rows, settings.neighbours, pool)


def _cut(rows: Csr, neighbours: int, pool: Threads) -> Csr:
    starts = range(0, rows.n_rows, _CUT_ROWS)
    parts: dict[int, Rows] = {}

    def cut(piece: int) -> None:
        indptr = rows.indptr[starts[piece] : starts[piece] + _CUT_ROWS + 1]
        parts[piece] = keep_strongest(
            indptr - indptr[0], rows.indices[indptr[0] : indptr[-1]], rows.values[indptr[0] : indptr[-1]], neighbours
        )

    pool.each(cut, len(starts))
    return joined([parts[piece] for piece in range(len(starts))], rows.n_columns)
