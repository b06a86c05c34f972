"""A made catalogue of item vectors, for what no data at hand is large enough: its statistics follow a real one's.

What pruning and partitioning live on was measured on Gowalla (40,981 items, 128 factors, Nearcart's defaults): norms,
and in bands of norms the energy of the directions by coordinate and how much of the first coordinate is the same for
all. Norms are drawn from its quantiles; directions are normal with the energies of their band, around the centres of
clusters, which are normal too. Users take most items from a few clusters and popular ones more often, popularity being
a power of the norm, and are folded in as a server would, so that their vectors follow from the items as real ones do.
The same seed gives the same vectors. Checked by tests/test_recall_benchmark.py against `profile_of` of what is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.catalogues import Bag, Catalogue, Vectors, catalogue_of, folded_in
from engine.encoders import RidgeEncoder
from trainer.options import AlsOptions

SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
LEADING = (0.0, 1 / 128, 4 / 128, 12 / 128, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the coordinates, the first ones."""
BANDS = (0.0, 0.01, 0.1, 0.5, 1.0)
"""Items by falling norm: popular ones point more alike."""


@dataclass(frozen=True)
class Profile:
    """What a catalogue looks like to a search.

    norms: quantiles at SHARES, relative to the root of their mean square. energies: for each band, the share of the
    squared directions in the LEADING coordinates. means: for each band, the share of the first coordinate's energy that
    is its mean's.
    """

    norms: tuple[float, ...]
    energies: tuple[tuple[float, ...], ...]
    means: tuple[float, ...]


GOWALLA = Profile(
    norms=(0.081, 0.4491, 0.5686, 0.626, 0.7226, 0.8455, 1.0456, 1.3455, 1.6005, 2.3, 3.3877, 4.9719),
    energies=(
        (0.0, 0.0833, 0.1981, 0.284, 0.4, 0.5366, 0.6701, 0.8161, 1.0),
        (0.0, 0.0469, 0.1318, 0.2482, 0.3914, 0.5712, 0.719, 0.8603, 1.0),
        (0.0, 0.018, 0.0732, 0.182, 0.3248, 0.5393, 0.7129, 0.8682, 1.0),
        (0.0, 0.0111, 0.0597, 0.1897, 0.3427, 0.5443, 0.7039, 0.8556, 1.0),
    ),
    means=(0.5125, 0.425, 0.3802, 0.3997),
)
_NORM = 0.7135
"""The root mean square of Gowalla's norms."""
_BACKGROUND = 1245.8
"""Its unobserved weight times its items: how strongly all items hold a fold-in back."""
_POPULARITY = 2.4
"""Users of an item grow with this power of its norm."""
_HISTORY = (16, 0.75)
"""Median of the items of a user, and the deviation of their logarithm."""
_COHESION = (0.2, 0.7)
"""Share of a direction that is its cluster's: between these, for each cluster. This and the next four were chosen, for
200,000 items, by how hard Gowalla's queries are: at the median (and the 10% and 90% points) the share of the rows whose
|q| |y| reaches the twentieth score is .22 (.10, .46) of a user there and .21 (.12, .40) here, of a cart of one item .33
(.13, .71) and .33 (.15, .71); the first half of the coordinates holds .63 of a user's energy there and here."""
_SLOPE = (2.0, 0.1)
"""Times so much for the first and for the last coordinate: clusters differ in the leading ones."""
_CLUSTER_ITEMS = 800
_OWN_CLUSTERS = 2
_OWN_SHARE = 0.9
_USERS = 4_000
_ROWS_AT_ONCE = 1 << 16


def profile_of(vectors: Vectors) -> Profile:
    """The profile of item vectors float32 (n, d) in the eigenbasis of their Gram matrix."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    order = np.argsort(-norms)
    energies, means = [], []
    for first, last in pairwise(BANDS):
        rows = order[int(first * len(order)) : int(last * len(order))]
        directions = vectors[rows] / norms[rows][:, np.newaxis]
        squares = np.einsum("nd,nd->d", directions, directions, dtype=np.float64) / len(rows)
        places = np.arange(len(squares) + 1) / len(squares)
        leading = np.interp(LEADING, places, np.concatenate([[0.0], np.cumsum(squares)]))
        energies.append(tuple(leading.tolist()))
        means.append(float(directions[:, 0].mean(dtype=np.float64) ** 2 / squares[0]))
    quantiles = np.quantile(norms / np.sqrt(np.mean(norms**2)), SHARES)
    return Profile(tuple(quantiles.tolist()), tuple(energies), tuple(means))


@dataclass(frozen=True)
class Shop:
    """Items with their encoder, popularity float (n,), and the items of each user, rising."""

    encoder: RidgeEncoder
    popularity: NDArray[np.floating]
    histories: Sequence[Bag]


def made_shop(n_items: int = 1_000_000, factors: int = 128, seed: int = 30) -> Shop:
    """Items, and users who took some of them. Takes about a minute for a million items."""
    generator = np.random.default_rng(seed)
    n_clusters = max(2, n_items // _CLUSTER_ITEMS)
    clusters = generator.integers(0, n_clusters, n_items)
    vectors = _in_eigenbasis(_items(n_items, factors, clusters, n_clusters, generator))
    popularity = np.einsum("nd,nd->n", vectors, vectors) ** (_POPULARITY / 2)
    return Shop(_encoder(vectors), popularity, _histories(popularity, clusters, n_clusters, generator))


def level_shop(n_items: int, factors: int, seed: int = 30) -> Shop:
    """The worst there is for a search that prunes: items of equal norms, in all directions alike, all as popular."""
    generator = np.random.default_rng(seed)
    vectors = generator.standard_normal((n_items, factors), dtype=np.float32)
    vectors *= (_NORM / np.linalg.norm(vectors, axis=1)).astype(np.float32)[:, np.newaxis]
    popularity, clusters = np.ones(n_items), np.zeros(n_items, dtype=np.int64)
    return Shop(_encoder(_in_eigenbasis(vectors)), popularity, _histories(popularity, clusters, 1, generator))


def made_catalogue(n_items: int = 1_000_000, factors: int = 128, seed: int = 30) -> Catalogue:
    """Items, users and carts. Takes about a minute for a million items."""
    shop = made_shop(n_items, factors, seed)
    histories = shop.histories

    def bag(user: int, length: int, drawn_by: np.random.Generator) -> Bag:
        return np.sort(drawn_by.choice(histories[user], length, replace=False))

    def users(chosen: NDArray[np.int64]) -> Vectors:
        return folded_in(shop.encoder, [histories[user] for user in chosen.tolist()])

    sizes = np.array([len(history) for history in histories])
    return catalogue_of("made", shop.encoder, shop.popularity, sizes, users, bag)


def _encoder(vectors: Vectors) -> RidgeEncoder:
    spectrum = np.einsum("nd,nd->d", vectors, vectors, dtype=np.float64).astype(np.float32)
    options = AlsOptions()
    return RidgeEncoder(
        vectors, spectrum, _BACKGROUND / len(vectors), options.regularization, options.regularization_exponent
    )


def _items(n: int, d: int, clusters: NDArray[np.int64], n_clusters: int, generator: np.random.Generator) -> Vectors:
    """Norms from the quantiles; directions around their clusters' centres, with the energies of their bands."""
    ranks = (generator.permutation(n) + generator.random(n)) / n
    norms = _NORM * np.exp(np.interp(ranks, SHARES, np.log(GOWALLA.norms)))
    bands = np.searchsorted(BANDS, 1 - ranks, side="left") - 1
    places = np.arange(d + 1) / d
    energies = np.array([np.diff(np.interp(places, LEADING, each)) for each in GOWALLA.energies])
    means = np.sqrt(energies[:, 0] * GOWALLA.means).astype(np.float32)
    energies[:, 0] *= 1 - np.array(GOWALLA.means)
    deviations = np.sqrt(energies).astype(np.float32)
    slope = np.interp(np.arange(d) / d, (0.0, 1.0), _SLOPE)
    shares = np.clip(generator.uniform(*_COHESION, (n_clusters, 1)) * slope, 0.0, 0.98).astype(np.float32)
    centres = _centres(shares, generator)
    vectors = np.empty((n, d), dtype=np.float32)
    for start in range(0, n, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, n))
        own, band = clusters[rows], bands[rows]
        block = generator.standard_normal((len(own), d), dtype=np.float32) * np.sqrt(1 - shares[own])
        block = (block + centres[own]) * deviations[band]
        block[:, 0] += means[band]
        block *= (norms[rows] / np.linalg.norm(block, axis=1)).astype(np.float32)[:, np.newaxis]
        vectors[rows] = block
    return vectors


def _centres(shares: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Normal, of the variances `shares` (clusters, d) in the mean, and no two coordinates going together where there
    are enough clusters: by chance alone they would bend the spectrum."""
    n, d = shares.shape
    centres = generator.standard_normal((n, d), dtype=np.float32) * np.sqrt(shares)
    values, basis = np.linalg.eigh(centres.T @ centres / n)
    if n > d:
        centres = centres @ (basis / np.sqrt(values)) @ basis.T * np.sqrt(shares.mean(axis=0))
    return centres.astype(np.float32)


def _in_eigenbasis(vectors: Vectors) -> Vectors:
    """Turned in place, so that their Gram matrix is diagonal and falls."""
    gram = sum(
        vectors[start : start + _ROWS_AT_ONCE].T.astype(np.float64) @ vectors[start : start + _ROWS_AT_ONCE]
        for start in range(0, len(vectors), _ROWS_AT_ONCE)
    )
    rotation = np.linalg.eigh(gram)[1][:, ::-1].astype(np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        vectors[start : start + _ROWS_AT_ONCE] = vectors[start : start + _ROWS_AT_ONCE] @ rotation
    return vectors


def _histories(
    popularity: NDArray[np.floating], clusters: NDArray[np.int64], n_clusters: int, generator: np.random.Generator
) -> list[Bag]:
    """The items of each user, rising: of a few clusters of their own, and of all; popular ones more often."""
    order = np.argsort(clusters, kind="stable")
    cumulated = np.concatenate([[0.0], np.cumsum(popularity[order], dtype=np.float64)])
    bounds = cumulated[np.searchsorted(clusters[order], np.arange(n_clusters + 1))]
    sizes = np.maximum(1, np.rint(_HISTORY[0] * np.exp(_HISTORY[1] * generator.standard_normal(_USERS)))).astype(int)
    histories = []
    for size in sizes.tolist():
        mine = np.searchsorted(bounds, generator.random(_OWN_CLUSTERS) * bounds[-1], side="right") - 1
        chosen = generator.choice(mine, size)
        own = generator.random(size) < _OWN_SHARE
        first, last = np.where(own, bounds[chosen], 0.0), np.where(own, bounds[chosen + 1], bounds[-1])
        places = np.searchsorted(cumulated, first + generator.random(size) * (last - first), side="right") - 1
        histories.append(np.unique(order[np.minimum(places, len(order) - 1)]).astype(np.int32))
    return histories
