"""The systems of item regression: every target's G_SS + D and G_Sj, gathered while rows of G are counted, and solved.

G is neither held nor cut: where a row of it stands in the counting kernel's scratch (trainer.cooccurrence), every
target takes what its matrix needs. engine.row_solver goes another way, conjugate gradients of vectors, so that the
factorization stands here. What the systems mean: trainer.item_regression, whose tests check them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import int64, njit, types
from numpy.typing import NDArray

from engine.signatures import (
    FASTMATH,
    float32_in,
    float32_out,
    float64_in,
    float64_out,
    float64_rows_out,
    int32_in,
    int32_out,
    int64_in,
)
from trainer.contexts import Contexts
from trainer.cooccurrence import CONTEXTS_IN, UNORDERED, ByItem, Scratch, count_row, kernel_arrays
from trainer.interactions import Csr, entries_by_column
from trainer.threads import Threads

_ROOM_FLOATS = 1 << 28
"""Of the matrices of a group of targets: 1 GiB. Each further group counts the rows once more."""
_SOLVE_TARGETS = 64
"""Targets that a thread solves at a time."""
_GATHERING_SHARE = 0.3
"""What counting and gathering take beside solving, about, for the progress alone."""


class NoPivot(Exception):
    """The matrix of a target is not positive definite, or holds no numbers."""

    def __init__(self, target: int) -> None:
        super().__init__(f"target {target}")
        self.target = target


@dataclass(frozen=True)
class Systems:
    """Of each target its candidates; of each source where it is one; and the room that the targets' matrices take.

    Source s is candidate number places[e] of target targets[e] for source_indptr[s] <= e < source_indptr[s + 1].
    """

    indptr: NDArray[np.int64]
    sources: NDArray[np.int32]
    source_indptr: NDArray[np.int64]
    targets: NDArray[np.int32]
    places: NDArray[np.int32]
    rooms: NDArray[np.int64]

    @classmethod
    def of(cls, candidates: Csr) -> Systems:
        """Row j of `candidates` has the candidates of target j as columns."""
        sizes = np.diff(candidates.indptr)
        of_sources = entries_by_column(candidates.indptr, candidates.indices, candidates.n_columns)
        # A target's packed lower triangle, row by row, and then its right side.
        rooms = np.append(0, np.cumsum(sizes * (sizes + 1) // 2 + sizes))
        return cls(candidates.indptr, candidates.indices, *of_sources, rooms)

    def arrays(
        self,
    ) -> tuple[
        NDArray[np.int64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]
    ]:
        """All arrays, as the kernel takes them."""
        return self.indptr, self.sources, self.source_indptr, self.targets, self.places, self.rooms

    def groups(self) -> list[tuple[int, int]]:
        """Stretches of targets whose matrices fit into the room, or one target alone."""
        first, n, found = 0, len(self.rooms) - 1, []
        while first < n:
            last = int(np.searchsorted(self.rooms, self.rooms[first] + _ROOM_FLOATS, side="right")) - 1
            last = min(max(last, first + 1), n)
            found.append((first, last))
            first = last
        return found

    def gather_costs(self) -> NDArray[np.int64]:
        """What each source row is read for, in numbers, int64 (n_items,)."""
        read = np.append(0, np.cumsum(self.places.astype(np.int64) + 2))
        return np.diff(read[self.source_indptr])


@njit(
    types.void(
        *CONTEXTS_IN, int64_in, int32_in, int64_in, int32_in, int32_in, int64_in, float64_in,
        int64, int64, int64, int64, float64_out, int32_out, float32_out,
    ),
    nogil=True, cache=True,
)  # fmt: skip
def _gather(  # type: ignore[no-untyped-def]
    indptr, indices, places, weights, item_indptr, numbers, offsets, forward, backward,
    target_indptr, sources, source_indptr, targets, candidate_places, rooms, diagonal,
    first_target, last_target, first, last, counts, found, matrices,
):  # fmt: skip
    """Count the rows first <= s < last of G, and write them to where targets first_target <= j < last_target want them.

    matrices float32: target j's packed lower triangle of G_SS + D, then G_Sj, from rooms[j] - rooms[first_target] on.
    diagonal float64 (n_items,): n_s + D_s. counts float64 (n_items,) is zeros before and after. The rest as in
    count_row and Systems.
    """
    base = rooms[first_target]
    for s in range(first, last):
        start, stop = source_indptr[s], source_indptr[s + 1]
        start += np.searchsorted(targets[start:stop], first_target)
        stop = start + np.searchsorted(targets[start:stop], last_target)
        if start == stop:
            continue
        n = count_row(
            indptr, indices, places, weights, item_indptr, numbers, offsets, forward, backward, s, counts, found,
        )  # fmt: skip
        for e in range(start, stop):
            target, place = targets[e], np.int64(candidate_places[e])
            at = rooms[target] - base
            row = at + place * (place + 1) // 2
            candidates = target_indptr[target]
            for q in range(place):
                matrices[row + q] = counts[sources[candidates + q]]
            matrices[row + place] = diagonal[s]
            size = target_indptr[target + 1] - candidates
            matrices[at + size * (size + 1) // 2 + place] = counts[target]
        for i in range(n):
            counts[found[i]] = 0.0


@njit(
    int64(int64, int64, int64_in, int64_in, int64, float64_rows_out, float64_out, float32_in, float32_out),
    nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy",
)  # fmt: skip
def _solve(first, last, target_indptr, rooms, base, lower, solution, matrices, out):  # type: ignore[no-untyped-def]
    """Solve the targets first <= j < last from their matrices, as `_gather` leaves them: A = L L', L L' b = G_Sj.

    lower float64 (most candidates, most candidates) and solution float64 (most candidates,) are scratch. out float32
    (entries of all targets,): the weights of each one's candidates are overwritten. Returns -1, or the first target
    whose matrix has no positive pivot.
    """
    for target in range(first, last):
        start, stop = target_indptr[target], target_indptr[target + 1]
        n = stop - start
        at = rooms[target] - base
        right = at + n * (n + 1) // 2
        for i in range(n):
            row = lower[i]
            for k in range(i + 1):
                other = lower[k]
                total = np.float64(matrices[at + i * (i + 1) // 2 + k])
                product = 0.0
                for m in range(k):
                    product += row[m] * other[m]
                total -= product
                if k < i:
                    row[k] = total * other[k]
                elif total > 0:
                    row[i] = 1 / np.sqrt(total)  # the inverse of the pivot, which is all that is needed of it
                else:
                    return np.int64(target)
            product = 0.0
            for m in range(i):
                product += row[m] * solution[m]
            solution[i] = (np.float64(matrices[right + i]) - product) * row[i]
        for back in range(n):
            i = n - 1 - back
            row = lower[i]
            value = solution[i] * row[i]
            solution[i] = value
            for m in range(i):
                solution[m] -= row[m] * value
        for i in range(n):
            out[start + i] = solution[i]
    return np.int64(-1)


def solve_systems(
    systems: Systems,
    contexts: Contexts,
    diagonal: NDArray[np.float64],
    pool: Threads,
    on_progress: Callable[[float], None],
) -> NDArray[np.float32]:
    """The weights of all targets' candidates, float32 (entries of candidates,); `diagonal` is that of G + D.

    `on_progress` is told the share that is done. Raises NoPivot for the first target that has no solution.
    """
    weights = np.empty(len(systems.sources), dtype=np.float32)
    by_item, scratch = ByItem.of(contexts), Scratch(contexts.n_items)
    arrays = kernel_arrays(contexts, by_item, UNORDERED)
    bounds = by_item.blocks(systems.gather_costs())
    groups = systems.groups()
    for number, group in enumerate(groups):
        matrices = np.empty(systems.rooms[group[1]] - systems.rooms[group[0]], dtype=np.float32)

        def gather(block: int, group: tuple[int, int] = group, matrices: NDArray[np.float32] = matrices) -> None:
            rows = int(bounds[block]), int(bounds[block + 1])
            with scratch.borrowed() as (counts, found):
                _gather(*arrays, *systems.arrays(), diagonal, *group, *rows, counts, found, matrices)

        def tell(share: float, done: float = number) -> None:
            on_progress((done + share) / len(groups))

        pool.each(gather, len(bounds) - 1, lambda share: tell(share * _GATHERING_SHARE))
        _solve_group(
            systems,
            group,
            matrices,
            weights,
            pool,
            lambda share: tell(_GATHERING_SHARE + share * (1 - _GATHERING_SHARE)),
        )
    return weights


def _solve_group(
    systems: Systems,
    group: tuple[int, int],
    matrices: NDArray[np.float32],
    weights: NDArray[np.float32],
    pool: Threads,
    on_progress: Callable[[float], None],
) -> None:
    starts = range(*group, _SOLVE_TARGETS)
    failed: list[int] = []

    def solve(piece: int) -> None:
        first, last = starts[piece], min(starts[piece] + _SOLVE_TARGETS, group[1])
        most = int(np.diff(systems.indptr[first : last + 1]).max())
        base = int(systems.rooms[group[0]])
        target = _solve(
            first, last, systems.indptr, systems.rooms, base, np.empty((most, most)), np.empty(most), matrices, weights
        )
        if target >= 0:
            failed.append(int(target))

    pool.each(solve, len(starts), on_progress)
    if failed:
        raise NoPivot(min(failed))
