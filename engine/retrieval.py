"""A snapshot: one release loaded, checked and warmed, which answers queries by id until it is dropped.

A snapshot never changes; publishing makes a new one and swaps the reference, so users, items, attributes and index
always belong together. Ids become rows on the way in and ids again on the way out. Every answer has exactly min(limit,
allowed items) items. Checked against brute force over the release's own arrays by tests/test_retrieval.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.attributes import read_attributes
from engine.columns import column_of
from engine.encoders import require_rows
from engine.errors import InvalidQuery, ReleaseCorrupt, UnknownItem, UnknownUser, Violation
from engine.ids import IdTable, StringTable, slots_for
from engine.index import Index
from engine.masks import Masks
from engine.parts import DensePart
from engine.queries import Answer, CartQuery, Repeat, SimilarQuery, Source, UserQuery
from engine.release import Release
from engine.restrictions import NO_ROWS, Allowed, Restrictions, Rows
from engine.scoring import Found

TITLE = "title"
_CANARY_TOLERANCE = 1e-4
"""Relative difference allowed between a canary's stored scores and those computed on another processor."""
_NO_VALUES: NDArray[np.float32] = np.empty(0, dtype=np.float32)


class SearchWatch(Protocol):
    """Is told of every search of the index that answers a query. Must be quick: the answer waits for it."""

    def __call__(
        self,
        release_id: str,
        index: Index,
        queries: NDArray[np.float32],
        k: int,
        excluded: Sequence[Rows],
        allowed: NDArray[np.bool_] | None,
        found: Sequence[Found],
    ) -> None:
        """What `index.search` was asked, and what it found."""


class Snapshot:
    """A release ready to answer. Thread-safe; holds memory-mapped arrays, the index, and what filters needed so far."""

    def __init__(self, release: Release, watch: SearchWatch | None = None) -> None:
        manifest = release.manifest
        part = DensePart.of(manifest)
        n_users, n_items, n_entries = part.n_users, part.n_items, part.n_entries
        self.release_id = release.release_id
        self.manifest: Mapping[str, Any] = manifest
        self._watch = watch
        self._users = IdTable.from_arrays(release.table("users/ids", n_users, n_slots=slots_for(n_users)))
        self._items = IdTable.from_arrays(release.table("items/ids", n_items, n_slots=slots_for(n_items)))
        self._history_starts = release.array("users/history.indptr", np.int64, (n_users + 1,))
        if self._history_starts[-1] != n_entries:
            raise ReleaseCorrupt(
                f"{release.directory}: the users' histories end at {self._history_starts[-1]:,}, "
                f"the manifest says {n_entries:,} entries: copy the release again, or roll back"
            )
        self._history_rows = release.array("users/history.indices", np.int32, (n_entries,))
        self._history_values = release.array("users/history.values", np.float32, (n_entries,))
        self._user_vectors = part.user_vectors(release)
        self._popularity = release.array("items/popularity", np.int32, (n_items,))
        self._popular_rows = release.array("items/popular_rows", np.int32, (n_items,))
        self._available = release.array("items/available", np.bool_, (n_items,))
        attributes = read_attributes(release, n_items)
        masks = Masks({name: column_of(each, name) for name, each in attributes.items()}, n_items)
        self._restrictions = Restrictions(self._items, masks)
        titles = attributes.get(TITLE)
        self._titles = titles if isinstance(titles, StringTable) else None
        self._encoder = part.encoder(release)
        item_vectors = self._encoder.item_vectors
        self._index = Index(release, item_vectors, part.plan, self._available)
        self._check_canaries(release)

    @classmethod
    def open(cls, directory: Path, watch: SearchWatch | None = None) -> Snapshot:
        """Load, check and warm the release in `directory`. Raises ReleaseError."""
        return cls(Release(directory), watch)

    def recommend_for_users(self, queries: Sequence[UserQuery]) -> list[Answer]:
        """What each user should see next. Raises InvalidQuery, UnknownUser for a strict one that cannot be personal."""
        allowed = self._restrictions.of(queries)
        return self._answer([self._for_user(query, each) for query, each in zip(queries, allowed, strict=True)])

    def recommend_for_carts(self, queries: Sequence[CartQuery]) -> list[Answer]:
        """What goes with each cart. Raises UnknownItem or UnknownUser for a strict query, InvalidQuery."""
        allowed = self._restrictions.of(queries)
        return self._answer([self._for_cart(query, each) for query, each in zip(queries, allowed, strict=True)])

    def similar_items(self, query: SimilarQuery) -> Answer:
        """Items like this one: the answer to a cart of it alone. Raises UnknownItem, InvalidQuery."""
        row = self._items.row(query.item_id)
        if row < 0:
            raise UnknownItem(f"release {self.release_id} does not hold the item {query.item_id[:128]!r}")
        rows = np.array([row], dtype=np.int32)
        allowed = self._restrictions.of([query])[0].without(rows)
        vector = self._encoder.encode(rows, _ones(rows))
        return self._answer([_Plan(query.limit, Source.SIMILAR, allowed, vector)])[0]

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """The title of each item, "" where it has none or is unknown."""
        rows = self._items.rows(item_ids).tolist()
        return ["" if self._titles is None or row < 0 else self._titles[row] for row in rows]

    def _for_user(self, query: UserQuery, allowed: Allowed) -> _Plan:
        user = self._users.row(query.user_id)
        recent, unknown = self._known(query.recent_item_ids)
        rows, values = self._history(user)
        if len(recent):
            rows, values = _merge(rows, values, recent, _ones(recent))
        if query.repeat is Repeat.NEVER:
            allowed = allowed.without(rows)
        elif query.repeat is Repeat.ONLY:
            allowed = allowed.among(rows[values > 0])
        if not (values > 0).any():
            # A stranger, or someone known for dislikes alone, whose vector is zero.
            if query.strict and user < 0:
                raise UnknownUser(
                    f"release {self.release_id} does not hold the user {query.user_id[:128]!r}, "
                    "and no recent item is known"
                )
            return _Plan(query.limit, Source.POPULAR, allowed, None, unknown)
        vector = self._encoder.encode(rows, values) if len(recent) else self._user_vectors[user]
        return _Plan(query.limit, Source.PERSONAL, allowed, vector, unknown)

    def _for_cart(self, query: CartQuery, allowed: Allowed) -> _Plan:
        cart, unknown = self._known(query.item_ids)
        user = -1 if query.user_id is None else self._users.row(query.user_id)
        if query.user_id is None and query.repeat is Repeat.ONLY:
            raise InvalidQuery([Violation("repeat", "ONLY means items of the user's history: give a user_id")])
        if query.strict and query.user_id is not None and user < 0:
            raise UnknownUser(f"release {self.release_id} does not hold the user {query.user_id[:128]!r}")
        if query.strict and not len(cart):
            raise UnknownItem(f"release {self.release_id} holds none of the {len(query.item_ids):,} items of the cart")
        history, values = self._history(user)
        allowed = allowed.without(cart)
        if query.repeat is Repeat.NEVER:
            allowed = allowed.without(history)
        elif query.repeat is Repeat.ONLY:
            allowed = allowed.among(history[values > 0])
        if len(cart):
            rows, weights = cart, self._weights(query, cart)
            if query.history_weight > 0:
                rows, weights = _merge(history, values * np.float32(query.history_weight), cart, weights)
            return _Plan(query.limit, Source.CART, allowed, self._encoder.encode(rows, weights), unknown)
        if (values > 0).any():
            return _Plan(query.limit, Source.PERSONAL, allowed, self._user_vectors[user], unknown)
        return _Plan(query.limit, Source.POPULAR, allowed, None, unknown)

    def _answer(self, plans: Sequence[_Plan]) -> list[Answer]:
        """Search all vectors that ask for as much of the same items in one call; the rest is a few rows each."""
        found: list[Found | None] = [self._directly(plan) for plan in plans]
        alike: dict[tuple[int, int], list[int]] = {}
        for i, plan in enumerate(plans):
            if found[i] is None:
                alike.setdefault((plan.limit, id(plan.allowed.mask)), []).append(i)
        for batch in alike.values():
            queries = np.stack([vector for i in batch if (vector := plans[i].vector) is not None])
            excluded = [plans[i].allowed.excluded for i in batch]
            limit, mask = plans[batch[0]].limit, plans[batch[0]].allowed.mask
            searched = self._index.search(queries, limit, excluded, mask)
            if self._watch is not None:
                self._watch(self.release_id, self._index, queries, limit, excluded, mask, searched)
            for i, each in zip(batch, searched, strict=True):
                found[i] = each
        answers = []
        for plan, answer in zip(plans, found, strict=True):
            rows, scores = answer or (NO_ROWS, _NO_VALUES)
            answers.append(Answer(self._items.take(rows), scores, plan.source, plan.unknown_item_ids))
        return answers

    def _directly(self, plan: _Plan) -> Found | None:
        """The answer where only a few rows are candidates, or popularity decides; None where vectors are searched."""
        candidates = plan.allowed.candidates()
        if plan.vector is None:
            return self._most_popular(plan, candidates)
        return None if candidates is None else self._index.best_of(plan.vector, plan.limit, candidates)

    def _most_popular(self, plan: _Plan, candidates: Rows | None) -> Found:
        """The first available rows of the popularity order that are allowed: of the candidates, None for all."""
        if candidates is not None:
            order = np.lexsort((candidates, -self._popularity[candidates]))
            candidates = candidates[order]
            chosen = candidates[self._available[candidates]][: plan.limit]
            return chosen, self._popularity[chosen].astype(np.float32)
        allowed = plan.allowed
        taken: list[Rows] = []
        wanted, start, size = plan.limit, 0, plan.limit + len(allowed.excluded) + 64
        while wanted > 0 and start < len(self._popular_rows):
            rows = self._popular_rows[start : start + size]
            shown = self._available[rows] if allowed.mask is None else self._available[rows] & allowed.mask[rows]
            rows = rows[shown & ~np.isin(rows, allowed.excluded)][:wanted]
            taken.append(rows)
            wanted -= len(rows)
            start, size = start + size, 2 * size
        chosen = np.concatenate(taken) if taken else NO_ROWS
        return chosen, self._popularity[chosen].astype(np.float32)

    def _history(self, user: int) -> tuple[Rows, NDArray[np.float32]]:
        if user < 0:
            return NO_ROWS, _NO_VALUES
        start, stop = self._history_starts[user], self._history_starts[user + 1]
        rows = self._history_rows[start:stop]
        require_rows(rows, len(self._items))
        return rows, self._history_values[start:stop]

    def _weights(self, query: CartQuery, cart: Rows) -> NDArray[np.float32]:
        """What the items of a cart, by their rows, weigh: 1 + log of the quantity, as training weighs counts."""
        if not query.quantities:
            return _ones(cart)
        rows = self._items.rows(query.item_ids)
        is_known = rows >= 0
        places = np.searchsorted(cart, rows[is_known])
        quantities = np.bincount(places, np.asarray(query.quantities, dtype=np.float64)[is_known], len(cart))
        return (1 + np.log(quantities)).astype(np.float32)

    def _known(self, item_ids: Sequence[str]) -> tuple[Rows, tuple[str, ...]]:
        """The rows of the known ids, ascending and unique, and the ids that are unknown, in their order."""
        if not item_ids:
            return NO_ROWS, ()
        rows = self._items.rows(item_ids)
        unknown = tuple(dict.fromkeys(item_ids[i] for i in np.flatnonzero(rows < 0).tolist()))
        return np.unique(rows[rows >= 0]), unknown

    def _check_canaries(self, release: Release) -> None:
        """Answer the release's stored carts and compare; this also touches the pages that the first queries need."""
        starts = release.array("canaries/carts.indptr", np.int64, (None,))
        carts = release.array("canaries/carts.indices", np.int32, (int(starts[-1]),))
        expected = release.array("canaries/scores", np.float32, (None, None))
        for i, scores in enumerate(expected):
            cart = carts[starts[i] : starts[i + 1]]
            vector = self._encoder.encode(cart, _ones(cart))
            found = self._index.exact(vector[np.newaxis], len(scores), [cart])[0][1]
            self._index.search(vector[np.newaxis], len(scores), [cart])
            if len(found) != len(scores) or not np.allclose(found, scores, rtol=_CANARY_TOLERANCE, atol=1e-6):
                raise ReleaseCorrupt(
                    f"{release.directory}: canary {i} scores {found[:3]}..., the release stores {scores[:3]}...: "
                    "vectors and index do not belong together; publish again, or `nearcart releases rollback`"
                )


@dataclass(frozen=True)
class _Plan:
    """What one query comes to: a vector to search with, or none (popular), among what is allowed."""

    limit: int
    source: Source
    allowed: Allowed
    vector: NDArray[np.float32] | None
    unknown_item_ids: tuple[str, ...] = ()


def _merge(
    rows: Rows, values: NDArray[np.float32], added: Rows, weights: NDArray[np.float32]
) -> tuple[Rows, NDArray[np.float32]]:
    """History and added rows, ascending; a row that is in both keeps the larger of its two weights."""
    union = np.union1d(rows, added)
    merged = np.zeros(len(union), dtype=np.float32)
    merged[np.searchsorted(union, rows)] = values
    places = np.searchsorted(union, added)
    merged[places] = np.maximum(merged[places], weights)
    return union.astype(np.int32), merged


def _ones(rows: Rows) -> NDArray[np.float32]:
    return np.ones(len(rows), dtype=np.float32)
