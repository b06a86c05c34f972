"""The seam between benchmarks.recall and what it compares: an index that is built, asked, and asked under a filter.

A rival is built over vectors float32 (n, d) with each of its `builds`, by all cores; what comes out is asked with each
of its `settings` for the k largest inner products, by one thread. `ask` does everything that is not part of a search,
so that what is timed is the library's own call. The rivals themselves: benchmarks/search_faiss.py and
benchmarks/search_rivals.py. Checked by tests/test_recall_benchmark.py.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Parameters = Mapping[str, Any]
Grids = tuple[Sequence[Parameters], Sequence[Parameters]]
"""Builds and settings."""
EF_CONSTRUCTION = 200
"""Candidates while a graph is built, for every library: hnswlib's default, five times that of FAISS."""
EFS = (20, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
"""Candidates while a graph is searched."""
_LARGE = 500_000
"""Beyond so many vectors a rival gets the first of its builds only: a graph takes many minutes."""


@dataclass(frozen=True)
class Ask:
    """Rows of the k best, int (k,) for one query (d,) and (m, k) for many (m, d); -1 stands for none."""

    one: Callable[[Vectors], Any]
    many: Callable[[Vectors], Any]


@dataclass(frozen=True)
class Built:
    """An index. `ask` prepares searches for k with a setting; `filtered`, those among the allowed bool (n,)."""

    size_bytes: int
    """Of all that a search needs, vectors among them."""
    ask: Callable[[int, Parameters], Ask]
    filtered: Callable[[int, Parameters, NDArray[np.bool_]], Callable[[Vectors], Any]] | None = None
    chosen: Mapping[Any, str] = field(default_factory=dict)
    """What Nearcart chose, by promise."""
    opened: Mapping[Any, Any] = field(default_factory=dict)
    """Nearcart's indexes, by promise."""
    choosing_seconds: float = 0.0
    """Of building, what Nearcart needed to choose."""


@dataclass(frozen=True)
class Rival:
    """A library's index. `grids` gives the builds and the settings for n vectors."""

    package: str
    module: str
    build: Callable[[Vectors, Parameters], Built]
    grids: Callable[[int], Grids]

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def builds(self, n: int) -> Sequence[Parameters]:
        builds = self.grids(n)[0]
        return builds[:1] if n > _LARGE else builds

    def settings(self, n: int) -> Sequence[Parameters]:
        return self.grids(n)[1]


def words(parameters: Parameters) -> str:
    """Parameters as one writes them."""
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def augmented(vectors: Vectors) -> Vectors:
    """Vectors float32 (n, d + 1) of one norm, whose Euclidean neighbours of (q, 0) have the largest inner products.

    Raw inner products can leave a graph unable to reach most vectors, whatever its parameters; this reduces them to
    Euclidean distances (Bachrach et al. 2014), as voyager always does.
    """
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    last = np.sqrt(squares.max(initial=0.0) - squares).astype(np.float32)
    return np.hstack([vectors, last[:, np.newaxis]])


def padded(queries: Vectors) -> Vectors:
    """Queries float32 (m, d) for augmented vectors; numpy.pad would cost a single query ten microseconds."""
    out = np.zeros((len(queries), queries.shape[1] + 1), dtype=np.float32)
    out[:, :-1] = queries
    return out


def some_lists(n: int) -> int:
    """About the square root of n, as ScaNN advises for its leaves."""
    return max(4, round(math.sqrt(n)))
