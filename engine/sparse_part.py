"""A part of a recommender whose memory is sparse: how it is named, weighed, stored and read.

The encoder turns evidence into a weighted bag of the memory's rows: items (engine.encoders.BagEncoder) or sessions of
the past (engine.session_encoder.SessionEncoder). Checked by tests/test_sparse_part.py.
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
from engine.parts import BAG, SESSIONS, SPARSE, Sizes, entries_of, understanding
from engine.release import Draft, Release
from engine.session_encoder import Postings, SessionEncoder
from engine.sparse_memory import Bag, Rows, SparseMemory
from engine.stored_arrays import reader


@dataclass(frozen=True)
class SparsePart:
    """`weight` is what its scores count in the sum; `told` goes into the manifest's word for the memory."""

    name: str
    weight: ByKind
    encoder: BagEncoder | SessionEncoder
    memory: SparseMemory
    told: Mapping[str, Any] = field(default_factory=dict)

    def bag(self, evidence: Evidence, kind: Kind) -> Bag:
        """The query that evidence makes of a kind; items after the last that the encoder knows give nothing."""
        return self.encoder.encode(self._known(evidence), kind)

    def shares(self, evidence: Evidence, kind: Kind, of_rows: Rows) -> NDArray[np.float64]:
        """What each item of the evidence gives to this part's scores of the items `of_rows`, float64 (k, m)."""
        known = self._known(evidence)
        shares = np.zeros((len(of_rows), len(evidence.rows)))
        shares[:, : len(known.rows)] = self.encoder.shares(known, kind, self.memory, of_rows)
        return shares

    def _known(self, evidence: Evidence) -> Evidence:
        """Rows ascend, so that those that the encoder does not know are the last."""
        rows, encoder = evidence.rows, self.encoder
        n_items = len(encoder.postings.item_weights) if isinstance(encoder, SessionEncoder) else self.memory.n_rows
        if not len(rows) or rows[-1] < n_items:
            return evidence
        n_known = int(np.searchsorted(rows, n_items))
        return Evidence(rows[:n_known], evidence.weights[:n_known], evidence.ages[:n_known])

    def store(self, draft: Draft, place: int) -> dict[str, Any]:
        """Write the arrays as those of the part at `place`; returns the manifest's words. Raises PublishFailed."""
        directory, encoder = _directory(place), self.encoder
        self.memory.store(draft, directory)
        told: dict[str, Any] = {"kind": BAG[0], "recency": encoder.recency._asdict(), "newest": encoder.newest}
        if isinstance(encoder, SessionEncoder):
            encoder.postings.store(draft, f"{directory}/postings")
            told |= {"nearest": encoder.nearest, "sharpness": encoder.sharpness}
            told |= {"items": len(encoder.postings.item_weights), "postings": len(encoder.postings.sessions)}
            told["kind"] = SESSIONS[0]
        sizes = {"rows": self.memory.n_rows, "entries": self.memory.n_entries}
        memory = {"kind": SPARSE, **sizes, **self.told}
        return {"name": self.name, "weight": self.weight._asdict(), "encoder": told, "memory": memory}


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
        encoder=_encoder(release, place, encoder, n_rows),
        memory=SparseMemory.read(reader(release, _directory(place)), n_rows, n_entries, n_items),
        told={name: value for name, value in memory.items() if name not in ("kind", "rows", "entries")},
    )


def _encoder(release: Release, place: int, told: Mapping[str, Any], n_rows: int) -> BagEncoder | SessionEncoder:
    recency, newest = ByKind.read(told["recency"]), int(told["newest"])
    if told["kind"] == BAG[0]:
        return BagEncoder(recency, newest)
    read = reader(release, f"{_directory(place)}/postings")
    postings = Postings.read(read, int(told["items"]), int(told["postings"]), n_rows)
    return SessionEncoder(recency, newest, max(1, int(told["nearest"])), float(told["sharpness"]), postings)


def _directory(place: int) -> str:
    return f"parts/{place}"
