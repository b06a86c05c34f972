"""Parts whose memories are written by hand, and cases by hand: items are 0 to N_ITEMS - 1."""

from __future__ import annotations

import numpy as np

from engine.encoders import BagEncoder
from engine.evidence import Evidence
from engine.kinds import ByKind
from engine.sparse_memory import SparseMemory
from engine.sparse_part import SparsePart
from trainer.cases import Cases
from trainer.evaluate import HeldOut
from trainer.interactions import Csr
from trainer.learned import BOTH

N_ITEMS = 120
OFF = ByKind(0.0, 0.0)


def part_of(name, entries):
    """A part whose memory has {item: {item: weight}}."""
    rows = [sorted(entries.get(item, {}).items()) for item in range(N_ITEMS)]
    memory = SparseMemory(
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
        np.array([item for row in rows for item, _ in row], dtype=np.int32),
        np.array([weight for row in rows for _, weight in row], dtype=np.float32),
    )
    return SparsePart(name, BOTH, BagEncoder(OFF, 200), memory)


def cases_with(shown, hidden, kind="user", *, repeats=False, users=None):
    """Cases of {item: age} and lists of items."""
    evidence = []
    for items in shown:
        rows = np.array(sorted(items), dtype=np.int32)
        ages = np.array([items[row] for row in rows.tolist()], dtype=np.int32)
        evidence.append(Evidence(rows, np.ones(len(rows), dtype=np.float32), ages))
    indptr = np.cumsum([0, *(len(each.rows) for each in evidence)]).astype(np.int64)
    rows = np.concatenate([each.rows for each in evidence])
    held_out = HeldOut(
        users=np.arange(len(hidden), dtype=np.int32),
        items=tuple(np.array(items, dtype=np.int32) for items in hidden),
        n_relevant=np.array([len(items) for items in hidden], dtype=np.int64),
        relevant_price=np.zeros(len(hidden)),
        prices=np.full(N_ITEMS, np.nan, dtype=np.float32),
        n_unknown_users=0,
        n_unknown_items=0,
    )
    excluded = None if repeats else Csr(indptr, rows, np.ones(len(rows), dtype=np.float32), n_columns=N_ITEMS)
    return Cases(kind, evidence, held_out, excluded, users)
