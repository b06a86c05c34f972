"""How many neighbours of an item are enough: the fewest that find as much on held-out cases, and what that costs.

Checked by tests/test_pruning.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.recall import recall_of
from engine.recommender import Recommender
from engine.scoring import Found
from engine.sparse_memory import SparseMemory
from engine.sparse_part import SparsePart
from trainer.cases import Cases
from trainer.learned import BOTH
from trainer.sparse_rows import keep_strongest

UNPRUNED = 500
"""Neighbours that are learned to compare with."""
SIZES = (30, 50, 100, 200)
_AT = 20


@dataclass(frozen=True)
class Pruning:
    """How many neighbours stay, and the share of the best 20 of `UNPRUNED` that they find, by score."""

    neighbours: int
    recall: float

    @property
    def told(self) -> dict[str, Any]:
        """The manifest's words."""
        return {"neighbours": self.neighbours, f"recall@{_AT}": self.recall, "against_neighbours": UNPRUNED}


def pruned(memory: SparseMemory, neighbours: int) -> SparseMemory:
    """The strongest entries of each row."""
    rows = keep_strongest(memory.indptr, memory.items, memory.weights, neighbours)
    return SparseMemory(np.append(0, np.cumsum(rows.sizes)).astype(np.int64), rows.indices, rows.values)


def choose_pruning(part: SparsePart, cases: Cases, neighbours: int | None) -> Pruning:
    """The fewest of SIZES whose hits in the top 20 are not fewer by more than a standard error; or what is given."""
    whole = _Top(part, cases)
    hits = whole.hits()
    for size in SIZES if neighbours is None else (neighbours,):
        found = _Top(replace(part, memory=pruned(part.memory, size)), cases)
        lost = hits - found.hits()
        if lost.mean() <= lost.std() / np.sqrt(max(1, len(lost))):
            break
    return Pruning(size, found.recall_against(whole))


class _Top:
    """What a part alone finds best for some cases."""

    def __init__(self, part: SparsePart, cases: Cases) -> None:
        self._recommender = Recommender(None, [replace(part, weight=BOTH)], np.ones(cases.n_items, dtype=np.bool_))
        self._cases, self._asked = cases, list(enumerate(cases.evidence))
        self.best: list[Found] = []
        for number, evidence in self._asked:
            out = cases.excluded_rows(number)
            query = self._recommender.query(evidence, cases.kind)
            rows, scores = self._recommender.search([query], _AT, [out], None)[0]
            self.best.append((rows[scores != 0], scores[scores != 0]))

    def hits(self) -> NDArray[np.float64]:
        """Of each case, float64 (cases,)."""
        items = self._cases.held_out.items
        return np.array([np.isin(rows, items[number]).sum() for number, (rows, _) in enumerate(self.best)], np.float64)

    def recall_against(self, whole: _Top) -> float:
        """The mean share of its best that are found, by its scores; cases that it finds nothing for aside."""
        recalls = []
        for (_, evidence), (rows, _), (_, exact) in zip(self._asked, self.best, whole.best, strict=True):
            if len(exact):
                scores = whole._recommender.scores(whole._recommender.query(evidence, self._cases.kind), rows)
                recalls.append(recall_of(np.sort(scores)[::-1], exact))
        return float(np.mean(recalls)) if recalls else 1.0
