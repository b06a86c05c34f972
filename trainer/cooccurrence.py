"""Co-occurrence counts: how much items were taken together, and in which order, row by row.

    C[s, j] = sum over contexts c that hold s and j, j != s, of  w_c g(place of j - place of s),
    g(0) = 1,    g(d) = d^-distance_damping,    g(-d) = backward_weight d^-distance_damping,    d = 1, 2, ..., window.

Where all places are equal this counts baskets, and C is symmetric. The whole of C is never held: rows are counted in
blocks, on all threads, and each block goes to a caller that keeps what it wants of it (trainer.item_neighbours). A row
is the work of one thread, contexts in their order, so that the same data gives the same bits for any number of threads.
Checked by tests/test_cooccurrence.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numba import int64, njit, types
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.signatures import (
    float32_in,
    float64_in,
    float64_out,
    int32_in,
    int32_out,
    int64_in,
    int64_out,
)
from trainer.contexts import Contexts
from trainer.interactions import entries_by_column
from trainer.threads import Threads

_BLOCK_PAIRS = 1 << 20
"""What a block costs about, in pairs that are looked at: some milliseconds, and 12 MiB of rows at most."""
_ROW_PAIRS = 16
"""What a row costs besides its pairs."""


@dataclass(frozen=True)
class Order:
    """What the order of items in a context means; by default what is near counts as much as what is far."""

    window: int | None = None
    """Places beyond which items of a context are not together; None: they all are."""
    distance_damping: float = 0.0
    """Items d places apart count d^-distance_damping."""
    backward_weight: float = 1.0
    """What an item that came before counts, beside one that came after: 1 no less, 0 nothing."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise UsageError(f"window is {self.window}; expected 1 or more places, or none for no window")
        if not 0 <= self.distance_damping <= 8:
            raise UsageError(f"distance_damping is {self.distance_damping}; expected from 0 to 8")
        if not 0 <= self.backward_weight <= 1e6:
            raise UsageError(f"backward_weight is {self.backward_weight}; expected from 0 to 1e6")

    def factors(self, most_places: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """g(d) and g(-d) for d = 0, ..., the window or `most_places`, whichever is less; each float64."""
        reach = most_places if self.window is None else min(self.window, most_places)
        forward = np.concatenate(([1.0], np.arange(1, reach + 1, dtype=np.float64) ** -self.distance_damping))
        backward = self.backward_weight * forward
        backward[0] = 1.0
        return forward, backward


UNORDERED = Order()
"""The order means nothing: C counts contexts, and is symmetric."""


@dataclass(frozen=True)
class CountedRows:
    """Rows first, first + 1, ... of C: row first + r has columns indices[indptr[r]:indptr[r + 1]], in no order.

    `indptr` int64, `indices` int32 and `counts` float64, all above zero.
    """

    first: int
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    counts: NDArray[np.float64]


@dataclass(frozen=True)
class ByItem:
    """Contexts by item: item s stands in the contexts numbers[indptr[s]:indptr[s + 1]], rising, at those offsets.

    `indptr` int64 (n_items + 1,), `numbers` and `offsets` int32 (entries,). `costs` int64 (n_items,) is what counting
    an item's row costs about, in pairs.
    """

    indptr: NDArray[np.int64]
    numbers: NDArray[np.int32]
    offsets: NDArray[np.int32]
    costs: NDArray[np.int64]

    @classmethod
    def of(cls, contexts: Contexts) -> ByItem:
        """Which contexts hold each item, and where."""
        sizes = np.diff(contexts.indptr)
        indptr, numbers, offsets = entries_by_column(contexts.indptr, contexts.indices, contexts.n_items)
        pairs = np.bincount(contexts.indices, np.repeat(sizes, sizes), minlength=contexts.n_items)
        return cls(indptr, numbers, offsets, pairs.astype(np.int64) + _ROW_PAIRS)

    def blocks(self, extra_costs: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Bounds of rows that cost about the same, together with `extra_costs` int64 (n_items,)."""
        costs = np.cumsum(self.costs if extra_costs is None else self.costs + extra_costs)
        n_blocks = -(-int(costs[-1]) // _BLOCK_PAIRS) if len(costs) else 0
        inner = np.searchsorted(costs, np.arange(1, n_blocks) * _BLOCK_PAIRS)
        return np.unique(np.concatenate(([0], inner, [len(costs)]))).astype(np.int64)


CONTEXTS_IN = (int64_in, int32_in, int32_in, float32_in, int64_in, int32_in, int32_in, float64_in, float64_in)
"""The numba types of `kernel_arrays`."""
Arrays = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.int64],
               NDArray[np.int32], NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]  # fmt: skip


def kernel_arrays(contexts: Contexts, by_item: ByItem, order: Order) -> Arrays:
    """What `count_row` takes of contexts, before its last three arguments."""
    of_contexts = (contexts.indptr, contexts.indices, contexts.places, contexts.weights)
    of_items = (by_item.indptr, by_item.numbers, by_item.offsets)
    return (*of_contexts, *of_items, *order.factors(int(contexts.places.max(initial=0))))


class Scratch:
    """A row of C, float64 zeros, and room for its columns, int32, for each thread that asks."""

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items
        self._free: list[tuple[NDArray[np.float64], NDArray[np.int32]]] = []

    @contextmanager
    def borrowed(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int32]]]:
        """One of each, which comes back with zeros in the row."""
        try:
            arrays = self._free.pop()
        except IndexError:
            arrays = np.zeros(self._n_items), np.empty(self._n_items, dtype=np.int32)
        yield arrays
        self._free.append(arrays)


@njit(int64(*CONTEXTS_IN, int64, float64_out, int32_out), nogil=True, cache=True)
def count_row(  # type: ignore[no-untyped-def]
    indptr, indices, places, weights, item_indptr, numbers, offsets, forward, backward, item, counts, found
):
    """Add row `item` of C to counts float64 (n_items,), zeros before; write the columns that are not zero now to found.

    indptr to weights are those of Contexts; item_indptr, numbers and offsets those of ByItem; forward[d] and
    backward[d] the factors g(d) and g(-d). found int32 (n_items,). Returns the number of columns, which are in no order
    of rows, but in one that depends on the data alone.
    """
    size = 0
    reach = len(forward) - 1
    for e in range(item_indptr[item], item_indptr[item + 1]):
        start, stop = indptr[numbers[e]], indptr[numbers[e] + 1]
        weight = np.float64(weights[numbers[e]])
        here = start + offsets[e]
        place = places[here]
        for q in range(here + 1, stop):
            distance = places[q] - place
            if distance > reach:
                break
            amount = weight * forward[distance]
            if amount > 0:
                other = indices[q]
                if counts[other] == 0:
                    found[size] = other
                    size += 1
                counts[other] += amount
        for back in range(here - start):
            q = here - 1 - back
            distance = place - places[q]
            if distance > reach:
                break
            amount = weight * backward[distance]
            if amount > 0:
                other = indices[q]
                if counts[other] == 0:
                    found[size] = other
                    size += 1
                counts[other] += amount
    return np.int64(size)


@njit(
    types.void(*CONTEXTS_IN, int64, float64_out, int32_out, int64_out, int32_out, float64_out), nogil=True, cache=True
)
def _count_rows(  # type: ignore[no-untyped-def]
    indptr, indices, places, weights, item_indptr, numbers, offsets, forward, backward,
    first, counts, found, out_indptr, out_indices, out_counts,
):  # fmt: skip
    """Write rows first, first + 1, ... of C: out_indptr int64 (rows + 1,), out_indices and out_counts long enough.

    counts float64 (n_items,) is zeros before and after.
    """
    size = 0
    out_indptr[0] = 0
    for r in range(len(out_indptr) - 1):
        n = count_row(
            indptr, indices, places, weights, item_indptr, numbers, offsets, forward, backward,
            first + r, counts, found,
        )  # fmt: skip
        for i in range(n):
            out_indices[size + i] = found[i]
            out_counts[size + i] = counts[found[i]]
            counts[found[i]] = 0.0
        size += n
        out_indptr[r + 1] = size


def count(
    contexts: Contexts,
    order: Order,
    pool: Threads,
    take: Callable[[int, CountedRows], None],
    on_progress: Callable[[float], None] | None = None,
) -> int:
    """Count all rows of C and give them to `take(block, rows)`, block by block; returns the number of blocks.

    `take` is called on the pool's threads, in no order of blocks, and its rows are its own. `on_progress` is told the
    share that is done. Two arrays of n_items for each thread, and one block of rows, are all that is held.
    """
    by_item = ByItem.of(contexts)
    arrays = kernel_arrays(contexts, by_item, order)
    bounds = by_item.blocks()
    scratch = Scratch(contexts.n_items)

    def count_block(block: int) -> None:
        first, last = int(bounds[block]), int(bounds[block + 1])
        most = int(np.minimum(by_item.costs[first:last], contexts.n_items).sum())
        indptr = np.empty(last - first + 1, dtype=np.int64)
        indices, counts = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.float64)
        with scratch.borrowed() as (row, found):
            _count_rows(*arrays, first, row, found, indptr, indices, counts)
        take(block, CountedRows(first, indptr, indices[: indptr[-1]], counts[: indptr[-1]]))

    pool.each(count_block, len(bounds) - 1, on_progress)
    return len(bounds) - 1
