"""A part of a recommender whose memory is sparse: how it is named, weighed, stored and read.

The encoder turns evidence into a weighted bag of the memory's rows: engine.encoders.BagEncoder, whose rows are items.
Checked by tests/test_sparse_part.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.encoders import BagEncoder
from engine.evidence import Evidence
from engine.kinds import ByKind, Kind
from engine.parts import BAG, SPARSE, Sizes, entries_of, understanding
from engine.release import Draft, Release
from engine.sparse_memory import Bag, Rows, SparseMemory
from engine.stored_arrays import reader


@dataclass(frozen=True)
class SparsePart:
    """`weight` is what its scores count in the sum; `told` goes into the manifest's word for the memory."""

    name: str
    weight: ByKind
    encoder: BagEncoder
    memory: SparseMemory
    told: Mapping[str, Any] = field(default_factory=dict)

    def bag(self, evidence: Evidence, kind: Kind) -> Bag:
        """The query that evidence makes of a kind; items after the memory's last row have no entries."""
        return self.encoder.encode(self._known(evidence), kind)

    def shares(self, evidence: Evidence, kind: Kind, of_rows: Rows) -> NDArray[np.float64]:
        """What each item of the evidence gives to this part's scores of the items `of_rows`, float64 (k, m)."""
        known = self._known(evidence)
        shares = np.zeros((len(of_rows), len(evidence.rows)))
        shares[:, : len(known.rows)] = self.encoder.shares(known, kind, self.memory, of_rows)
        return shares

    def _known(self, evidence: Evidence) -> Evidence:
        """Rows ascend, so that those without a row in the memory are the last."""
        rows = evidence.rows
        if not len(rows) or rows[-1] < self.memory.n_rows:
            return evidence
        n_known = int(np.searchsorted(rows, self.memory.n_rows))
        return Evidence(rows[:n_known], evidence.weights[:n_known], evidence.ages[:n_known])

    def store(self, draft: Draft, place: int) -> dict[str, Any]:
        """Write the arrays as those of the part at `place`; returns the manifest's words. Raises PublishFailed."""
        self.memory.store(draft, _directory(place))
        encoder = {"kind": BAG[0], "recency": self.encoder.recency._asdict(), "newest": self.encoder.newest}
        sizes = {"rows": self.memory.n_rows, "entries": self.memory.n_entries}
        memory = {"kind": SPARSE, **sizes, **self.told}
        return {"name": self.name, "weight": self.weight._asdict(), "encoder": encoder, "memory": memory}


def read_sparse_parts(release: Release) -> Sequence[SparsePart]:
    """The sparse parts of a release, in their order, memory-mapped, after their SHA-256 was compared.

    Raises ReleaseCorrupt, ReleaseIncompatible.
    """
    sizes, parts = Sizes.of(release.manifest), []
    for place, entry in enumerate(entries_of(release.manifest)):
        if entry["memory"]["kind"] == SPARSE:
            with understanding(release.manifest):
                parts.append(_read(release, place, entry, sizes.n_items))
    return parts


def _read(release: Release, place: int, entry: Mapping[str, Any], n_items: int) -> SparsePart:
    memory, encoder = entry["memory"], entry["encoder"]
    n_rows, n_entries = int(memory["rows"]), int(memory["entries"])
    return SparsePart(
        name=str(entry["name"]),
        weight=ByKind.read(entry["weight"]),
        encoder=BagEncoder(ByKind.read(encoder["recency"]), int(encoder["newest"])),
        memory=SparseMemory.read(reader(release, _directory(place)), n_rows, n_entries, n_items),
        told={name: value for name, value in memory.items() if name not in ("kind", "rows", "entries")},
    )


def _directory(place: int) -> str:
    return f"parts/{place}"
