"""Yesterday's release: training starts from its item vectors, and its exported vectors are what today's turn towards.

Item vectors are the state between epochs (trainer.als) that is taken over, mapped by id: users are solved anew in the
first half epoch, items that yesterday did not know in the second, and momentum starts from rest. What yesterday's
vectors were trained on is known too, for early stopping. How today's vectors are turned to yesterday's is
trainer.export. Checked by tests/test_warm_start.py, measured by benchmarks/warm_start.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseError, UsageError
from engine.ids import IdTable, slots_for
from engine.parts import EXPORT_ROTATION, ITEMS, DensePart
from engine.release import Release
from engine.repository import Repository
from engine.vector_table import Vectors
from trainer.als import random_items
from trainer.interactions import Csr, Interactions
from trainer.options import AlsOptions

LIVE = "live"
"""What `--warm-start` calls the release that CURRENT names."""

_log = logging.getLogger("nearcart")

_IDS_OF_BOTH = tuple(f"{side}/ids.{part}" for side in ("users", "items") for part in ("data", "offsets", "slots"))
_HISTORIES = ("users/history.indptr", "users/history.indices", "users/history.values")
_COMPARED_USERS = 1 << 16
"""Users whose histories are compared at a time."""


@dataclass(frozen=True)
class Previous:
    """What is taken from an earlier release: ids and vectors of its items, memory-mapped, (n_items, d).

    `export_rotation` float32 (d, d) is what its vectors were multiplied by when they were exported; None: as they are.
    """

    release_id: str
    item_ids: IdTable
    item_vectors: Vectors
    export_rotation: NDArray[np.float32] | None
    release: Release | None = None
    """Held, so that it is not pruned meanwhile."""

    @property
    def factors(self) -> int:
        """Length of a vector."""
        return int(self.item_vectors.shape[1])


def read_previous(release: Release) -> Previous:
    """Read what a release hands on, after comparing SHA-256. Raises ReleaseCorrupt, ReleaseIncompatible."""
    part = DensePart.of(release.manifest)
    names = ["items/ids.data", "items/ids.offsets", "items/ids.slots", *ITEMS.stored(part.vectors)]
    for name in [*names, EXPORT_ROTATION] if release.has(EXPORT_ROTATION) else names:
        release.verified_path(f"{name}.npy")
    ids = release.table("items/ids", part.n_items, n_slots=slots_for(part.n_items))
    return Previous(
        release.release_id,
        IdTable.from_arrays(ids),
        part.item_vectors(release),
        part.export_rotation(release),
        release.held(),
    )


def release_to_start_from(repository: Repository, warm_start: str | None, factors: int) -> Previous | None:
    """The release that `--warm-start` names; None where it names none, or the live one and nothing is live yet.

    To be called before events are read, so that what cannot be is said at once. Raises UsageError where the vectors
    have another length; ReleaseNotFound; ReleaseCorrupt; ReleaseIncompatible.
    """
    if warm_start is None:
        return None
    if warm_start == LIVE and repository.current() is None:
        _log.info("nothing is live in %s: training starts from random vectors", repository.root)
        return None
    path = repository.current_path() if warm_start == LIVE else repository.path(warm_start)
    previous = read_previous(Release(path))
    if previous.factors != factors:
        raise UsageError(
            f"--warm-start {warm_start}: found {previous.factors} factors in release {previous.release_id}, expected "
            f"{factors}: give --factors {previous.factors}, or train without --warm-start"
        )
    return previous


def live_release(repository: Repository, factors: int) -> Previous | None:
    """The live release, for its exported vectors; None, with a line in the log, where it has none to turn towards.

    Raises nothing because of the release: a training must not fail at its end over an old one.
    """
    try:
        previous = None if repository.current() is None else read_previous(Release(repository.current_path()))
    except ReleaseError as error:
        _log.warning("exported vectors are not aligned to the live release: %s", error)
        return None
    if previous is not None and previous.factors != factors:
        _log.warning(
            "exported vectors are not aligned to the live release %s: it has %d factors, this training %d",
            previous.release_id, previous.factors, factors,
        )  # fmt: skip
        return None
    return previous


@dataclass(frozen=True)
class Histories:
    """The ids of a release, and its users' entries, by_user (users, items), memory-mapped."""

    user_ids: IdTable
    item_ids: IdTable
    by_user: Csr


def read_histories(release: Release) -> Histories:
    """Read them, after comparing SHA-256. Raises ReleaseCorrupt, ReleaseIncompatible."""
    part = DensePart.of(release.manifest)
    for name in (*_IDS_OF_BOTH, *_HISTORIES):
        release.verified_path(f"{name}.npy")
    user_ids, item_ids = (
        IdTable.from_arrays(release.table(f"{side}/ids", n, n_slots=slots_for(n)))
        for side, n in (("users", part.n_users), ("items", part.n_items))
    )
    indptr = release.array(_HISTORIES[0], np.int64, (part.n_users + 1,))
    indices = release.array(_HISTORIES[1], np.int32, (part.n_entries,))
    values = release.array(_HISTORIES[2], np.float32, (part.n_entries,))
    return Histories(user_ids, item_ids, Csr(indptr, indices, values, n_columns=part.n_items))


def new_entries(previous: Histories, interactions: Interactions) -> NDArray[np.bool_]:
    """Which entries, bool (entries,) in the order of `by_user`, are of a user and an item without one in the release.

    By id, liked or not. The release's vectors may have been trained on all others.
    """
    histories, by_user = previous.by_user, interactions.by_user
    old_users = previous.user_ids.rows_of(interactions.user_ids.strings)
    old_items = previous.item_ids.rows_of(interactions.item_ids.strings)
    is_new = np.empty(by_user.n_entries, dtype=np.bool_)
    for start in range(0, by_user.n_rows, _COMPARED_USERS):
        users = np.arange(start, min(start + _COMPARED_USERS, by_user.n_rows))
        known = users[old_users[users] >= 0]
        old, new = histories.selected(old_users[known]), by_user.selected(users)
        had = np.repeat(known, np.diff(old.indptr)) * histories.n_columns + old.indices
        has = np.repeat(users, np.diff(new.indptr)) * histories.n_columns + old_items[new.indices]
        is_unknown = old_items[new.indices] < 0
        is_new[by_user.indptr[start] : by_user.indptr[users[-1] + 1]] = is_unknown | ~np.isin(has, had)
    return is_new


def initial_items(previous: Previous, item_ids: IdTable, options: AlsOptions) -> NDArray[np.float32]:
    """Item vectors to start training from, float32 (n_items, d) in the order of `item_ids`: yesterday's where known.

    Others start as small random vectors, as in a cold training. Zeros would do for an item whose users have other
    items as well, but they are a stationary point of the objective: new items that only new users have, who have
    nothing else, would stay at zero for ever.
    """
    rows = previous.item_ids.rows_of(item_ids.strings)
    items = random_items(len(rows), options)
    known = np.flatnonzero(rows >= 0)
    old = previous.item_vectors[rows[known]]
    has_vector = old.any(axis=1)
    known = known[has_vector]
    items[known] = old[has_vector]
    _log.info(
        "training starts from release %s: %s of %s items have a vector there",
        previous.release_id, f"{len(known):,}", f"{len(rows):,}",
    )  # fmt: skip
    return items
