"""What may come back: filter, allow list and deny list of a query as rows, before it is known who asks.

engine.retrieval adds what depends on the user or the cart. Long lists become masks, so that nothing here or later walks
them id by id: a million denied ids cost about what reading them from the request does. tests/test_retrieval.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.evidence import NO_ROWS
from engine.ids import IdTable
from engine.masks import Masks
from engine.queries import CartQuery, SimilarQuery, UserQuery

FEW_ALLOWED = 16_384
_FEW_SHARE = 16
"""Up to so many allowed items, or items that meet a filter, and up to n / 16 of them, are scored one by one; more
become a mask. Of 2 million items with 64 factors 4,096 took .09 ms and 7.5 ms by a mask, 16,384 .9 and 2.4 ms (a busy
2-core machine)."""
FEW_DENIED = 512
"""Up to so many denied items are a list, more become a mask: of 2 million items 256 took .11 ms and .12 ms by a mask,
1,024 .21 and .13 ms."""

Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Allowed:
    """Which rows may come back: those of `mask` (None: all) that `only` names (None: all) and `excluded` does not.

    `mask` bool (n_items,) is shared with other queries. `only` and `excluded` int32 are ascending and unique.
    """

    excluded: Rows
    mask: NDArray[np.bool_] | None = None
    only: Rows | None = None

    def without(self, rows: Rows) -> Allowed:
        """Leave these rows out too."""
        if not len(rows):
            return self
        excluded = np.union1d(self.excluded, rows).astype(np.int32) if len(self.excluded) else rows
        return replace(self, excluded=excluded)

    def among(self, rows: Rows) -> Allowed:
        """Nothing but these rows."""
        return replace(self, only=rows if self.only is None else np.intersect1d(rows, self.only, assume_unique=True))

    def candidates(self) -> Rows | None:
        """The rows that may come back, ascending, where they are few; None where the catalogue must be searched."""
        if self.only is None:
            return None
        rows = np.setdiff1d(self.only, self.excluded, assume_unique=True)
        return rows if self.mask is None else rows[self.mask[rows]]


class Restrictions:
    """Reads what queries restrict, by the ids and attributes of one snapshot."""

    def __init__(self, items: IdTable, masks: Masks) -> None:
        self._items = items
        self._masks = masks
        self._few = min(FEW_ALLOWED, len(items) // _FEW_SHARE)

    def of(self, queries: Sequence[UserQuery | CartQuery | SimilarQuery]) -> list[Allowed]:
        """What each query restricts; what many queries of a batch share is looked up once. Raises InvalidQuery."""
        known: dict[tuple[int, int, int], Allowed] = {}
        allowed = []
        for query in queries:
            shared = id(query.filter), id(query.allowed_item_ids), id(query.exclude_item_ids)
            if shared not in known:
                known[shared] = self._of(query)
            allowed.append(known[shared])
        return allowed

    def _of(self, query: UserQuery | CartQuery | SimilarQuery) -> Allowed:
        only = None if query.filter is None else self._masks.rows(query.filter, self._few)
        mask = None if query.filter is None or only is not None else self._masks.mask(query.filter)
        if query.allowed_item_ids:
            rows = self._rows(query.allowed_item_ids)
            if only is not None:
                only = np.intersect1d(only, rows)
            elif len(rows) <= self._few:
                only = _ascending(rows)
            else:
                listed = np.zeros(len(self._items), dtype=np.bool_)
                listed[rows] = True
                mask = listed if mask is None else listed & mask
        rows = self._rows(query.exclude_item_ids)
        if len(rows) <= FEW_DENIED:
            return Allowed(_ascending(rows), mask, only)
        mask = np.ones(len(self._items), dtype=np.bool_) if mask is None else mask.copy()
        mask[rows] = False
        return Allowed(NO_ROWS, mask, only)

    def _rows(self, item_ids: Sequence[str]) -> Rows:
        """The rows of the known ids, in their order."""
        if not item_ids:
            return NO_ROWS
        rows = self._items.rows(item_ids)
        return rows[rows >= 0]


def _ascending(rows: Rows) -> Rows:
    return np.unique(rows) if len(rows) > 1 else rows
