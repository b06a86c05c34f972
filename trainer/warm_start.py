"""Yesterday's release: training starts from its item vectors, and its exported vectors are what today's turn towards.

Item vectors are the whole state between epochs (trainer.als), so they are all that is taken over, mapped by id: users
are solved anew in the first half epoch, and items that yesterday did not know in the second. How today's vectors are
turned to yesterday's is trainer.vectors. Checked by tests/test_warm_start.py, measured by benchmarks/warm_start.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseError, UsageError
from engine.ids import IdTable, slots_for
from engine.parts import EXPORT_ROTATION, ITEM_VECTORS, DensePart
from engine.release import Release
from engine.repository import Repository
from trainer.options import AlsOptions

LIVE = "live"
"""What `--warm-start` calls the release that CURRENT names."""

_log = logging.getLogger("nearcart")


@dataclass(frozen=True)
class Previous:
    """What is taken from an earlier release: ids and vectors of its items, memory-mapped, float32 (n_items, d).

    `export_rotation` float32 (d, d) is what its vectors were multiplied by when they were exported; None: as they are.
    """

    release_id: str
    item_ids: IdTable
    item_vectors: NDArray[np.float32]
    export_rotation: NDArray[np.float32] | None

    @property
    def factors(self) -> int:
        """Length of a vector."""
        return int(self.item_vectors.shape[1])


def read_previous(release: Release) -> Previous:
    """Read what a release hands on, after comparing SHA-256. Raises ReleaseCorrupt, ReleaseIncompatible."""
    part = DensePart.of(release.manifest)
    names = ["items/ids.data", "items/ids.offsets", "items/ids.slots", ITEM_VECTORS]
    for name in [*names, EXPORT_ROTATION] if release.has(EXPORT_ROTATION) else names:
        release.verified_path(f"{name}.npy")
    ids = release.table("items/ids", part.n_items, n_slots=slots_for(part.n_items))
    return Previous(
        release.release_id, IdTable.from_arrays(ids), part.item_vectors(release), part.export_rotation(release)
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


def initial_items(previous: Previous, item_ids: IdTable, options: AlsOptions) -> NDArray[np.float32]:
    """Item vectors to start training from, float32 (n_items, d) in the order of `item_ids`: yesterday's where known.

    Others start as small random vectors, as in a cold training. Zeros would do for an item whose users have other
    items as well, but they are a stationary point of the objective: new items that only new users have, who have
    nothing else, would stay at zero for ever.
    """
    rows = previous.item_ids.rows_of(item_ids.strings)
    generator = np.random.default_rng(options.seed)
    items = generator.standard_normal((len(rows), options.factors), dtype=np.float32)
    items *= np.float32(options.init_scale / np.sqrt(options.factors))
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
