"""A snapshot: one release loaded and checked, which answers queries by id until it is dropped.

A snapshot never changes; publishing makes a new one and swaps the reference, so users, items, attributes and index
always belong together. Ids become rows on the way in and ids again on the way out. Every answer has exactly min(limit,
allowed items) items. Checked against brute force over the release's own arrays by tests/test_retrieval.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.attributes import read_attributes
from engine.canaries import check_canaries
from engine.columns import column_of
from engine.errors import InvalidQuery, UnknownItem, UnknownUser, Violation
from engine.evidence import NO_ROWS, Evidence
from engine.histories import NO_EVIDENCE, Histories
from engine.ids import IdTable, StringTable, slots_for
from engine.index import Index
from engine.kinds import Kind
from engine.masks import Masks
from engine.parts import Sizes
from engine.popular import Popular
from engine.queries import MAX_SHARES, Answer, CartQuery, Repeat, SimilarQuery, Source, UserQuery
from engine.recommender import DenseMemory, Query, Recommender
from engine.release import Release
from engine.restrictions import Allowed, Restrictions, Rows
from engine.scoring import Found
from engine.sparse_part import read_sparse_parts
from engine.stacked import OfEach
from engine.stored_users import Answered, StoredUsers

TITLE = "title"
_NO_VALUES: NDArray[np.float32] = np.empty(0, dtype=np.float32)


class SearchWatch(Protocol):
    """Is told of every search of the index that answers a query. Must be quick: the answer waits for it."""

    def __call__(
        self,
        release_id: str,
        index: Index,
        queries: NDArray[np.float32],
        k: int,
        excluded: OfEach[Rows],
        allowed: NDArray[np.bool_] | None,
        found: OfEach[Found],
    ) -> None:
        """What `index.search` was asked, and what it found."""


class Snapshot:
    """A release ready to answer. Thread-safe; holds memory-mapped arrays, the index, and what filters needed so far."""

    def __init__(self, release: Release, watch: SearchWatch | None = None) -> None:
        manifest = release.manifest
        sizes = Sizes.of(manifest)
        n_users, n_items = sizes.n_users, sizes.n_items
        self._release = release.held()
        self.release_id = release.release_id
        self.manifest: Mapping[str, Any] = manifest
        self._users = IdTable.from_arrays(release.table("users/ids", n_users, n_slots=slots_for(n_users)))
        self._items = IdTable.from_arrays(release.table("items/ids", n_items, n_slots=slots_for(n_items)))
        self._histories = Histories.read(release)
        self._available = release.array("items/available", np.bool_, (n_items,))
        self._popular = Popular(
            release.array("items/popularity", np.int32, (n_items,)),
            release.array("items/popular_rows", np.int32, (n_items,)),
            self._available,
        )
        attributes = read_attributes(release, n_items)
        masks = Masks({name: column_of(each, name) for name, each in attributes.items()}, n_items)
        self._restrictions = Restrictions(self._items, masks)
        titles = attributes.get(TITLE)
        self._titles = titles if isinstance(titles, StringTable) else None
        dense = DenseMemory.open(release, self._available)
        sparse = read_sparse_parts(release)
        check_canaries(release, Recommender(dense, sparse, self._available), dense, self._histories)
        told = None if watch is None or dense is None else partial(watch, self.release_id, dense.index)
        self._recommender = Recommender(dense, sparse, self._available, told)
        self._stored = None
        if dense is not None and dense.weight.user and not any(part.weight.user for part in sparse):
            self._stored = StoredUsers(self._users, self._histories, dense, self._popular, told)

    @classmethod
    def open(cls, directory: Path, watch: SearchWatch | None = None) -> Snapshot:
        """Load and check the release in `directory`. Raises ReleaseError."""
        return cls(Release(directory), watch)

    def recommend_for_users(self, queries: Sequence[UserQuery]) -> list[Answer]:
        """What each user should see next. Raises InvalidQuery, UnknownUser for a strict one that cannot be personal."""
        allowed = self._restrictions.of(queries)
        return self._answer([self._for_user(query, each) for query, each in zip(queries, allowed, strict=True)])

    def answer_users(self, user_ids: Sequence[str], limit: int) -> Answered | None:
        """`recommend_for_users` of these ids, which hold no NUL, and a limit: as columns, with no object for each.

        None where the release answers its users with more than vectors. Raises ReleaseCorrupt.
        """
        return None if self._stored is None else self._stored.answer(user_ids, limit)

    @property
    def user_ids(self) -> StringTable:
        """Whom the release knows."""
        return self._users.strings

    @property
    def item_ids(self) -> StringTable:
        """The id of each row of an answer."""
        return self._items.strings

    def recommend_for_carts(self, queries: Sequence[CartQuery]) -> list[Answer]:
        """What goes with each cart. Raises UnknownItem or UnknownUser for a strict query, InvalidQuery."""
        allowed = self._restrictions.of(queries)
        return self._answer([self._for_cart(query, each) for query, each in zip(queries, allowed, strict=True)])

    def similar_items(self, query: SimilarQuery) -> Answer:
        """Items like this one: the answer to a cart of it alone. Raises UnknownItem, InvalidQuery."""
        row = self._items.row(query.item_id)
        if row < 0:
            raise UnknownItem(f"release {self.release_id} does not hold the item {query.item_id[:128]!r}")
        evidence = Evidence.of_rows(np.array([row], dtype=np.int32))
        allowed = self._restrictions.of([query])[0].without(evidence.rows)
        return self._answer([self._plan(query, Source.SIMILAR, allowed, evidence, "cart")])[0]

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        """The title of each item, "" where it has none or is unknown."""
        rows = self._items.rows(item_ids).tolist()
        return ["" if self._titles is None or row < 0 else self._titles[row] for row in rows]

    def _for_user(self, query: UserQuery, allowed: Allowed) -> _Plan:
        user = self._users.row(query.user_id)
        recent, unknown = self._known(query.recent_item_ids)
        history = self._history(user)
        evidence = history.joined(recent)
        if query.repeat is Repeat.NEVER:
            allowed = allowed.without(evidence.rows)
        elif query.repeat is Repeat.ONLY:
            allowed = allowed.among(evidence.rows[evidence.weights > 0])
        if not evidence.is_liked:
            # A stranger, or someone known for dislikes alone, whose vector is zero.
            if query.strict and user < 0:
                raise UnknownUser(
                    f"release {self.release_id} does not hold the user {query.user_id[:128]!r}, "
                    "and no recent item is known"
                )
            return _Plan(query.limit, Source.POPULAR, allowed, None, unknown)
        stored = user if evidence is history else -1
        return self._plan(query, Source.PERSONAL, allowed, evidence, "user", unknown, user=stored)

    def _for_cart(self, query: CartQuery, allowed: Allowed) -> _Plan:
        cart, unknown = self._known(query.item_ids)
        user = -1 if query.user_id is None else self._users.row(query.user_id)
        if query.user_id is None and query.repeat is Repeat.ONLY:
            raise InvalidQuery([Violation("repeat", "ONLY means items of the user's history: give a user_id")])
        if query.strict and query.user_id is not None and user < 0:
            raise UnknownUser(f"release {self.release_id} does not hold the user {query.user_id[:128]!r}")
        if query.strict and not len(cart.rows):
            raise UnknownItem(f"release {self.release_id} holds none of the {len(query.item_ids):,} items of the cart")
        history = self._history(user)
        allowed = allowed.without(cart.rows)
        if query.repeat is Repeat.NEVER:
            allowed = allowed.without(history.rows)
        elif query.repeat is Repeat.ONLY:
            allowed = allowed.among(history.rows[history.weights > 0])
        if len(cart.rows):
            cart = self._weighed(query, cart)
            if query.history_weight > 0:
                scaled = history.weights * np.float32(query.history_weight)
                cart = replace(history, weights=scaled).joined(cart)
            return self._plan(query, Source.CART, allowed, cart, "cart", unknown)
        if history.is_liked:
            return self._plan(query, Source.PERSONAL, allowed, history, "user", unknown, user=user)
        return _Plan(query.limit, Source.POPULAR, allowed, None, unknown)

    def _plan(
        self,
        query: UserQuery | CartQuery | SimilarQuery,
        source: Source,
        allowed: Allowed,
        evidence: Evidence,
        kind: Kind,
        unknown: tuple[str, ...] = (),
        user: int = -1,
    ) -> _Plan:
        """What to search with; `user` is the row whose stored history the evidence is. Raises InvalidQuery."""
        without = self._switched_off(query.without_parts, kind)
        # What is split is what the evidence comes to: a stored vector may be packed, and be something else by that.
        asked = self._recommender.query(evidence, kind, user=-1 if query.shares else user, without=without)
        plan = _Plan(query.limit, source, allowed, asked, unknown)
        if not query.shares:
            return plan
        if query.limit * len(evidence.rows) > MAX_SHARES:
            most = f"; for the {len(evidence.rows):,} items that are asked with, {MAX_SHARES // len(evidence.rows):,}"
            raise InvalidQuery(
                [Violation("limit", f"is {query.limit:,}, too many to split the scores of{most} at most")]
            )
        return replace(plan, split=_Split(evidence, kind, without))

    def _switched_off(self, names: Sequence[str], kind: Kind) -> Sequence[str]:
        """Names of parts that are not to count. Raises InvalidQuery for others, and where none is left that would."""
        parts = self._recommender.part_names
        for place, name in enumerate(names):
            if name not in parts:
                known = f"this release has {', '.join(map(repr, parts))}"
                raise InvalidQuery([Violation(f"without_parts[{place}]", f"is {name[:128]!r}; {known}")])
        if names and not self._recommender.answers(kind, names):
            raise InvalidQuery([Violation("without_parts", f"leaves no part that answers for a {kind}")])
        return names

    def _answer(self, plans: Sequence[_Plan]) -> list[Answer]:
        """Search all that ask for as much of the same items in one call; the rest is a few rows each."""
        found: list[Found | None] = [self._directly(plan) for plan in plans]
        alike: dict[tuple[int, int], list[int]] = {}
        for i, plan in enumerate(plans):
            if found[i] is None:
                alike.setdefault((plan.limit, id(plan.allowed.mask)), []).append(i)
        for batch in alike.values():
            queries = [query for i in batch if (query := plans[i].query) is not None]
            excluded = [plans[i].allowed.excluded for i in batch]
            limit, mask = plans[batch[0]].limit, plans[batch[0]].allowed.mask
            for i, each in zip(batch, self._recommender.search(queries, limit, excluded, mask), strict=True):
                found[i] = each
        return [self._told(plan, answer or (NO_ROWS, _NO_VALUES)) for plan, answer in zip(plans, found, strict=True)]

    def _told(self, plan: _Plan, found: Found) -> Answer:
        rows, scores = found
        answer = Answer(self._items.take(rows), scores, plan.source, plan.unknown_item_ids)
        if plan.split is None:
            return answer
        evidence, kind, without = plan.split
        shares = self._recommender.shares(evidence, kind, rows, without)
        return replace(answer, shares=shares, share_item_ids=self._items.take(evidence.rows))

    def _directly(self, plan: _Plan) -> Found | None:
        """The answer where only a few rows are candidates, or popularity decides; None where parts are searched."""
        if plan.query is None:
            return self._popular.best(plan.limit, plan.allowed)
        candidates = plan.allowed.candidates()
        return None if candidates is None else self._recommender.best_of(plan.query, plan.limit, candidates)

    def _history(self, user: int) -> Evidence:
        return self._histories.of(user, len(self._items))

    def _weighed(self, query: CartQuery, cart: Evidence) -> Evidence:
        """A cart with the weights of its quantities: 1 + log of the quantity, as training weighs counts."""
        if not query.quantities:
            return cart
        rows = self._items.rows(query.item_ids)
        is_known = rows >= 0
        places = np.searchsorted(cart.rows, rows[is_known])
        quantities = np.bincount(places, np.asarray(query.quantities, dtype=np.float64)[is_known], len(cart.rows))
        return replace(cart, weights=(1 + np.log(quantities)).astype(np.float32))

    def _known(self, item_ids: Sequence[str]) -> tuple[Evidence, tuple[str, ...]]:
        """The known ids, each of weight 1 and as old as its last place says, and the unknown ones, in their order."""
        if not item_ids:
            return NO_EVIDENCE, ()
        rows = self._items.rows(item_ids)
        unknown = tuple(dict.fromkeys(item_ids[i] for i in np.flatnonzero(rows < 0).tolist()))
        newest_first = rows[rows >= 0][::-1]
        rows, first = np.unique(newest_first, return_index=True)
        ages = np.empty(len(rows), dtype=np.int32)
        ages[np.argsort(first)] = np.arange(len(rows), dtype=np.int32)
        return Evidence(rows, np.ones(len(rows), dtype=np.float32), ages), unknown


@dataclass(frozen=True)
class _Plan:
    """What one query comes to: something to search with, or nothing (popular), among what is allowed."""

    limit: int
    source: Source
    allowed: Allowed
    query: Query | None
    unknown_item_ids: tuple[str, ...] = ()
    split: _Split | None = None


class _Split(NamedTuple):
    """What an answer's scores are split among."""

    evidence: Evidence
    kind: Kind
    without: Sequence[str]
