"""The histories of a release's users: what each had to do with, how much, and how old each of it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ReleaseCorrupt
from engine.evidence import NO_ROWS, Evidence, require_rows
from engine.parts import AGES, Sizes
from engine.release import Draft, Release

_INDPTR, _ROWS, _VALUES = "users/history.indptr", "users/history.indices", "users/history.values"
NO_EVIDENCE = Evidence.of_rows(NO_ROWS)


@dataclass(frozen=True)
class Histories:
    """All users' entries: indptr int64 (users + 1,), rows int32 and values float32 (entries,), rising within a user.

    ages uint16 (entries,), as in engine.evidence, None where nothing in the release asks for them.
    """

    indptr: NDArray[np.int64]
    rows: NDArray[np.int32]
    values: NDArray[np.float32]
    ages: NDArray[np.uint16] | None = None

    @classmethod
    def read(cls, release: Release) -> Histories:
        """Those of a release, memory-mapped. Raises ReleaseCorrupt."""
        sizes = Sizes.of(release.manifest)
        indptr, n_entries = release.array(_INDPTR, np.int64, (sizes.n_users + 1,)), sizes.n_entries
        if indptr[-1] != n_entries:
            raise ReleaseCorrupt(
                f"{release.directory}: the users' histories end at {indptr[-1]:,}, "
                f"the manifest says {n_entries:,} entries: copy the release again, or roll back"
            )
        return cls(
            indptr,
            release.array(_ROWS, np.int32, (n_entries,)),
            release.array(_VALUES, np.float32, (n_entries,)),
            release.array(AGES, np.uint16, (n_entries,)) if release.has(AGES) else None,
        )

    def store(self, draft: Draft) -> None:
        """Write them. Raises PublishFailed."""
        for name, array in ((_INDPTR, self.indptr), (_ROWS, self.rows), (_VALUES, self.values), (AGES, self.ages)):
            if array is not None:
                draft.add_array(name, array)

    def of(self, user: int, n_items: int) -> Evidence:
        """That of a user by row, of nobody for -1. Raises ReleaseCorrupt for rows outside the n_items."""
        if user < 0:
            return NO_EVIDENCE
        entries = slice(self.indptr[user], self.indptr[user + 1])
        rows = self.rows[entries]
        require_rows(rows, n_items)
        ages = np.zeros(len(rows), dtype=np.int32) if self.ages is None else self.ages[entries].astype(np.int32)
        return Evidence(rows, self.values[entries], ages)
