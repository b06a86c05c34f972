"""Contexts: what was taken together, in which order, when, and how much it says.

A context is a set of items with a weight: a basket (or session), or what one user has liked. Co-occurrence counts
(trainer.cooccurrence) and item regression (trainer.item_regression) read contexts, whatever they were made of. Items
stand in the order in which they came, so that a window of places is a stretch of entries. Baskets hold two items or
more (trainer.interactions), histories one or more. Checked by tests/test_contexts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import UsageError
from trainer.cleaning import DAY_SECONDS
from trainer.interactions import Baskets, Interactions, dense_ranks
from trainer.weighting import LENGTH_NORMALIZATION, SATURATION


@dataclass(frozen=True)
class ContextSettings:
    """What counts as a context, and how much it says."""

    history_weight: float = 0.0
    """What a user's history weighs beside a basket, which weighs 1; 0 leaves histories out, and where no event names a
    basket they are all there is, whatever they weigh."""
    most_items: int = 500
    """A basket or history is cut to so many of its newest items: pairs grow with the square of a context."""
    half_life_days: float | None = None
    """The weight of a context is halved for each of these that it is older than the newest one; contexts without a time
    keep theirs. None: weights do not decay."""
    size_damping: float = 0.0
    """A context of m items weighs m^-size_damping: 1 gives each context's rows of pairs about the same say."""

    def __post_init__(self) -> None:
        if not 0 <= self.history_weight <= 1e6:
            raise UsageError(f"history_weight is {self.history_weight}; expected from 0 to 1e6")
        if not 1 <= self.most_items <= 1_000_000:
            raise UsageError(f"most_items is {self.most_items}; expected from 1 to 1,000,000")
        if self.half_life_days is not None and not 0.001 <= self.half_life_days <= 1e6:
            raise UsageError(f"half_life_days is {self.half_life_days}; expected from 0.001 to 1,000,000 days")
        if not 0 <= self.size_damping <= 4:
            raise UsageError(f"size_damping is {self.size_damping}; expected from 0 to 4")


@dataclass(frozen=True)
class Contexts:
    """Context c holds the item rows indices[indptr[c]:indptr[c + 1]], each once, by rising place, then row.

    `indptr` int64 (n + 1,), `indices` and `places` int32 (entries,): equal places came at once. `seconds` float64 (n,)
    is the time of each, NaN where unknown, and `weights` float32 (n,) what each says.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    places: NDArray[np.int32]
    seconds: NDArray[np.float64]
    weights: NDArray[np.float32]
    n_items: int

    def __len__(self) -> int:
        return len(self.weights)

    def item_weights(self) -> NDArray[np.float64]:
        """n_s, the weights of the contexts that hold each item, added up: float64 (n_items,)."""
        spread = np.repeat(self.weights, np.diff(self.indptr))
        return np.bincount(self.indices, spread, minlength=self.n_items).astype(np.float64, copy=False)

    def decayed(self, half_life_days: float) -> Contexts:
        """Weights halved for each half-life that a context is older than the newest; without a time they stay.

        Raises UsageError where no context has a time.
        """
        known = ~np.isnan(self.seconds)
        if not known.any():
            raise UsageError(
                "a half-life needs times, and no basket or history has one; name the column with --timestamp-column"
            )
        ages = (self.seconds[known].max() - self.seconds) / (half_life_days * DAY_SECONDS)
        return replace(self, weights=(self.weights * np.where(known, 0.5**ages, 1.0)).astype(np.float32))

    def damped(self, size_damping: float) -> Contexts:
        """Weights times m^-size_damping, m being the number of items of a context."""
        sizes = np.diff(self.indptr).astype(np.float64)
        return replace(self, weights=(self.weights * sizes**-size_damping).astype(np.float32))

    def as_bm25(self, saturation: float = SATURATION, length_normalization: float = LENGTH_NORMALIZATION) -> Contexts:
        """Weights times that of two terms that a document of m holds once each, without their idf (Robertson 2009).

        ((k1 + 1) / (1 + k1 (1 - b + b m / mean m)))^2, k1 being the saturation and b the length normalization.
        """
        sizes = np.diff(self.indptr).astype(np.float64)
        lengths = sizes / max(1.0, sizes.mean()) if len(sizes) else sizes
        term = (saturation + 1) / (1 + saturation * (1 - length_normalization + length_normalization * lengths))
        return replace(self, weights=(self.weights * term**2).astype(np.float32))


def contexts_of(interactions: Interactions, settings: ContextSettings = ContextSettings()) -> Contexts:
    """Baskets, histories or both, weighed as the settings say. Raises UsageError for a half-life without times."""
    baskets = interactions.baskets
    parts = []
    if baskets:
        parts.append(of_baskets(baskets, interactions.n_items, settings.most_items))
    if settings.history_weight > 0 or not parts:
        histories = of_histories(interactions, settings.most_items)
        weight = np.float32(settings.history_weight if parts else 1.0)
        parts.append(replace(histories, weights=histories.weights * weight))
    contexts = stacked(parts)
    if settings.half_life_days is not None:
        contexts = contexts.decayed(settings.half_life_days)
    return contexts.damped(settings.size_damping) if settings.size_damping > 0 else contexts


def is_ordered(contexts: Contexts) -> bool:
    """Whether items of most contexts with two or more came one after another."""
    starts, sizes = contexts.indptr[:-1], np.diff(contexts.indptr)
    several = sizes > 1
    if not several.any():
        return False
    last = contexts.places[contexts.indptr[1:][several] - 1]
    return bool((last > contexts.places[starts[several]]).mean() > 0.5)


def of_baskets(baskets: Baskets, n_items: int, most_items: int = ContextSettings.most_items) -> Contexts:
    """Each basket a context of weight 1. Of more than `most_items` the newest stay, of equally old the smaller rows."""
    indptr, items, places = baskets.indptr, baskets.indices, baskets.places
    sizes = np.diff(indptr)
    if sizes.max(initial=0) > most_items:
        numbers = np.repeat(np.arange(len(sizes)), sizes)
        newest_first = np.lexsort((items, -places, numbers))
        kept = np.sort(newest_first[np.arange(len(items)) - indptr[numbers[newest_first]] < most_items])
        indptr = np.append(0, np.cumsum(np.minimum(sizes, most_items))).astype(np.int64)
        items, places = items[kept], places[kept]
    return _in_order(indptr, items, places, baskets.seconds, n_items)


def of_histories(interactions: Interactions, most_items: int = ContextSettings.most_items) -> Contexts:
    """What each user has liked, a context of weight 1, whose time is that of the newest item.

    Places follow the last times; an item without a time is older than those that have one. Of more than `most_items`
    the newest stay, of equally old ones those with the smaller rows. Users who like nothing have no context.
    """
    by_user = interactions.by_user
    ages, users = interactions.ages(), np.repeat(np.arange(by_user.n_rows), np.diff(by_user.indptr))
    liked = np.flatnonzero(by_user.values > 0)
    liked = liked[np.lexsort((ages[liked], users[liked]))]  # stable: rows rise among equal ages
    starts = np.searchsorted(users[liked], np.arange(by_user.n_rows))
    kept = np.sort(liked[np.arange(len(liked)) - starts[users[liked]] < most_items])
    sizes = np.bincount(users[kept], minlength=by_user.n_rows)
    indptr = np.append(0, np.cumsum(sizes[sizes > 0])).astype(np.int64)
    times = np.where(np.isnan(interactions.last_times[kept]), -np.inf, interactions.last_times[kept])
    newest = np.maximum.reduceat(times, indptr[:-1]) if len(kept) else times
    places = dense_ranks(indptr, times)
    seconds = np.where(np.isinf(newest), np.nan, newest)
    return _in_order(indptr, by_user.indices[kept], places, seconds, interactions.n_items)


def stacked(parts: Sequence[Contexts]) -> Contexts:
    """Contexts one after the other; at least one part, all of the same items."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([part.indptr[-1] for part in parts])
    indptrs = [part.indptr[1:] + end - part.indptr[-1] for part, end in zip(parts, ends, strict=True)]

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    return Contexts(
        indptr=np.concatenate([np.zeros(1, dtype=np.int64), *indptrs]),
        indices=joined("indices"),
        places=joined("places"),
        seconds=joined("seconds"),
        weights=joined("weights"),
        n_items=parts[0].n_items,
    )


def _in_order(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    places: NDArray[np.int32],
    seconds: NDArray[np.float64],
    n_items: int,
) -> Contexts:
    """Contexts of weight 1 from entries of which the rows of a context rise."""
    weights = np.ones(len(seconds), dtype=np.float32)
    if places.any():
        contexts = np.repeat(np.arange(len(seconds), dtype=np.int32), np.diff(indptr))
        order = np.lexsort((places, contexts))
        indices, places = indices[order], places[order]
    return Contexts(indptr, indices, places, seconds, weights, n_items)
