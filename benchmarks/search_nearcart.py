"""Nearcart behind the seam of benchmarks.recall: its index at each promise of recall, as a release holds it.

Each promise has a draft of its own, with what `nearcart index` chooses for it.
"""

from __future__ import annotations

import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_seam import Ask, Built, Parameters, Vectors
from engine.calibration import add_measured_index
from engine.index import Index
from engine.measurement import Queries
from engine.plan import AUTO, IndexPlan
from engine.pruned_table import build_table
from engine.release import Draft

PROMISES = (0.9, 0.95, 0.99, 1.0)
_SECONDS = 20.0
"""For building indexes to choose among: the default of `nearcart index`."""
_NONE = np.empty(0, dtype=np.int32)


def built_nearcart(vectors: Vectors, tuning: Mapping[str, Vectors], k: int, promises: Sequence[float]) -> Built:
    """The index over vectors, with a setting "promise" for each; tuning: other queries than those that are measured."""
    folder = tempfile.TemporaryDirectory(prefix="nearcart-recall-")
    queries = {kind: Queries(each, [_NONE] * len(each)) for kind, each in tuning.items() if len(each)}
    started = time.perf_counter()
    build_table(vectors)
    building_seconds = time.perf_counter() - started
    plans, opened, size = {}, {}, 0
    for promise in promises:
        plan, opened[promise], size = _chosen(Path(folder.name), f"{promise}", vectors, queries, promise)
        plans[promise] = str(plan)
    choosing_seconds = time.perf_counter() - started - building_seconds

    def ask(k: int, setting: Parameters) -> Ask:
        index = opened[setting["promise"]]
        return Ask(
            lambda query: index.search(query[np.newaxis], k, [_NONE])[0][0],
            lambda queries: [rows for rows, _ in index.search(queries, k, [_NONE] * len(queries))],
        )

    def filtered(k: int, setting: Parameters, allowed: NDArray[np.bool_]) -> Callable[[Vectors], Any]:
        index = opened[setting["promise"]]
        return lambda query: index.search(query[np.newaxis], k, [_NONE], allowed)[0][0]

    built = Built(
        size_bytes=size + vectors.nbytes,
        ask=ask,
        filtered=filtered,
        chosen=plans,
        opened=opened,
        choosing_seconds=choosing_seconds,
    )
    weakref.finalize(built, folder.cleanup)
    return built


def _chosen(
    folder: Path, name: str, vectors: Vectors, queries: Mapping[str, Queries], promise: float
) -> tuple[IndexPlan, Index, int]:
    """What `nearcart index --recall PROMISE` would take, opened, and the bytes of its files."""
    draft = Draft(folder, name).__enter__()  # its files go with the folder
    available = np.ones(len(vectors), dtype=np.bool_)
    index = add_measured_index(draft, IndexPlan(AUTO), vectors, available, queries, promise, _SECONDS)
    plan = IndexPlan(index["factory"], index["search_parameters"], index["matrix_queries"])
    size = sum(path.stat().st_size for path in draft.directory.rglob("*") if path.is_file())
    return plan, Index(draft, vectors, plan), size
