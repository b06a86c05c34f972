"""What an entry weighs, from the sums of its events: binary, count, log, propensity, tfidf, bm25.

The first three look at one entry alone, the others at all of them. Propensity divides by a power of how popular the
item is: an item that many come across is observed for being seen, not only for being liked. In TF-IDF and BM25 the
*user* is the document and the item the term: an item that nearly everybody has says little about the one who has it
too, and in BM25 a user with a long history says less with each entry. (The other way round, an item would be the long
document and popular items would be damped twice.) Everything is float64 and in the order of the entries, so that the
same entries give the same bits. The rules that a shop sets are trainer.cleaning.Cleaning's. Held against
tests/reference_events.py by tests/test_weighting.py.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Weighting = Literal["binary", "count", "log", "propensity", "tfidf", "bm25"]
AMONG_ALL: tuple[Weighting, ...] = ("propensity", "tfidf", "bm25")
"""Those that weigh an entry among all others."""

PROPENSITY_EXPONENT = 0.25
"""Of .15, .25, .35 and .5 the best on validation entries of Gowalla (256 and 512 factors; docs/quality.md)."""
SATURATION = 1.2
LENGTH_NORMALIZATION = 0.75
"""k1 and b of BM25 as Robertson and Zaragoza recommend them (2009, section 3.5: k1 from 1.2 to 2, b from .5 to .8)."""


def weigh_alone(sums: NDArray[np.float64], strongest: NDArray[np.float64], weighting: Weighting) -> NDArray[np.float64]:
    """What one entry says without the others, float64 (entries,): for tfidf and bm25 the frequency of the term.

    `sums` is S, the sum of the weights of an entry's events; `strongest` the weight of the heaviest one. Logarithms are
    1 + log |S|, and |S| itself below 1, where the logarithm would fall below zero: at 1 both have the slope 1, so that
    a decaying weight passes from one to the other without a step.
    """
    if weighting == "binary":
        return strongest
    if weighting in ("count", "bm25"):
        return sums
    size = np.abs(sums)
    return np.asarray(np.sign(sums) * np.where(size < 1, size, 1 + np.log(np.maximum(size, 1))))


def weigh_among_all(
    values: NDArray[np.float64],
    indptr: NDArray[np.int64],
    item_rows: NDArray[np.int32],
    weighting: Weighting,
    saturation: float = SATURATION,
    length_normalization: float = LENGTH_NORMALIZATION,
) -> NDArray[np.float64]:
    """Weights of the order of 1 from what `weigh_alone` says, float64 (entries,); those not in AMONG_ALL stay.

    `indptr` (n_users + 1,) and `item_rows` (entries,) are those of trainer.interactions.Csr. N being the number of
    users and n_i that of the users with an entry of item i, the rules are

        propensity:  f_ui n_i^-(1/4)
        tfidf:  f_ui (1 + log((1 + N) / (1 + n_i)))
        bm25:   log(1 + (N - n_i + 1/2) / (n_i + 1/2))  S_ui (k1 + 1) / (|S_ui| + k1 (1 - b + b |u| / mean |u|))

    with an idf that is never zero, k1 = `saturation`, b = `length_normalization` and |u| = sum_i |S_ui| (Robertson and
    Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, equation 3.15; idf as Lucene's, which is
    positive). The first is an inverse propensity score with the propensity of Saito et al. ("Unbiased Recommender
    Learning from Missing-Not-At-Random Implicit Feedback", 2020), a power of popularity; they take 1/2. Training counts
    on weights of about 1, therefore all are scaled until the mean of |weight| is 1. Signs stay.
    """
    if weighting not in AMONG_ALL or not len(values):
        return values
    sizes = np.diff(indptr)
    n_users = np.count_nonzero(sizes)
    users_of_items = np.bincount(item_rows).astype(np.float64)
    if weighting == "propensity":
        weights = values * (np.maximum(users_of_items, 1) ** -PROPENSITY_EXPONENT)[item_rows]
    elif weighting == "tfidf":
        weights = values * (1 + np.log((1 + n_users) / (1 + users_of_items)))[item_rows]
    else:
        user_of_entry = np.repeat(np.arange(len(sizes)), sizes)
        lengths = np.bincount(user_of_entry, np.abs(values), minlength=len(sizes))
        shares = 1 - length_normalization + length_normalization * lengths / (lengths.sum() / n_users)
        weights = values * (saturation + 1) / (np.abs(values) + saturation * shares[user_of_entry])
        weights *= np.log1p((n_users - users_of_items + 0.5) / (users_of_items + 0.5))[item_rows]
    return np.asarray(weights * (len(weights) / np.abs(weights).sum()))
