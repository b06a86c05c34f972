"""Which search keeps the promised recall and is the fastest of those: several are built, tuned and measured.

Exact search always keeps the promise, so it is the one to beat. An approximate one is tuned on one half of the queries
of each kind, from cheap settings to dear ones, until it keeps the promise; then the other half judges it, so that what
was chosen for its luck is found out. Which are tried depends on the catalogue and on the seconds that may be spent, by
estimates and never by the clock: the same catalogue and budget try the same searches. Checked by tests/test_choice.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import IndexUnsupported
from engine.index import APPROXIMATE_FILES, Index, add_index, add_table, discard_approximate
from engine.index_progress import SILENCE, IndexProgress
from engine.measurement import Measured, Queries, alone_microseconds, batch_microseconds, measure
from engine.plan import QUANTIZED, IndexPlan
from engine.pruned_table import norms_of
from engine.release import Draft
from engine.stored_arrays import Files
from engine.vector_table import Vectors

_FEWEST_ITEMS = 10_000
"""With fewer items exact search is as fast as calling it."""
_WORTH = 0.7
"""An approximate search must take less than this share of the exact one's time: what it costs is recall."""
BATCHES = (16, 64, 256, 1024)
_DEVIATIONS = (-1.5, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
_MOST_FACTORS = 2048
"""Of codes of one bit; of two it is half."""
_REACH_SHARES = (0.05, 0.2)
"""Of the rows that a search may miss, those that may be missed because they point too closely where a query does. Such
rows come many at a time, with a few odd queries, which a sample may lack: with .15 and .45 one of 36 promises of .99
was broken (.9888, carts of one item of completejourney)."""
_RESERVE = 0.4
"""Of what a search may miss, tuning leaves so much over: half of the queries are not all."""
_NEVER = 1 << 20
_MOST_TRIALS = 16
"""Settings of one ladder that are told of: the last ones, which are the closest to the promise."""
_GAP = 1.5
"""A setting this much slower than the best one ends the search for a better one: dearer ones follow."""


@dataclass(frozen=True)
class Family:
    """A search and ladders of its settings, from cheap to dear; `seconds` is what building it may take."""

    factory: str
    ladders: tuple[tuple[str, ...], ...]
    seconds: float


@dataclass(frozen=True)
class Trial:
    """A setting that was measured in tuning, on the queries that tune."""

    search_parameters: str
    measured: Mapping[str, Measured]

    @property
    def microseconds(self) -> float:
        """The mean over the kinds of query."""
        return _mean_microseconds(self.measured)

    def as_dict(self) -> dict[str, Any]:
        """The manifest's words."""
        return {"search_parameters": self.search_parameters, "measured": _as_dict(self.measured)}


@dataclass(frozen=True)
class Candidate:
    """A search that was measured on each kind of query, and whether it kept the promise on all of them.

    `trials` led to its setting. Where none of them kept the promise nothing was left to judge, and it has the setting
    and the measurements of the last one.
    """

    plan: IndexPlan
    measured: Mapping[str, Measured]
    kept: bool
    build_seconds: float
    size_bytes: int
    trials: Sequence[Trial] = ()

    @property
    def is_judged(self) -> bool:
        """Whether its measurements are of queries that did not tune it."""
        return not self.trials or self.measured is not self.trials[-1].measured

    @property
    def microseconds(self) -> float:
        """The mean over the kinds of query."""
        return _mean_microseconds(self.measured)

    def as_dict(self) -> dict[str, Any]:
        """The manifest's words."""
        return {
            "factory": self.plan.factory,
            "search_parameters": self.plan.search_parameters,
            "kept": self.kept,
            "build_seconds": round(self.build_seconds, 3),
            "size_bytes": self.size_bytes,
            "measured": _as_dict(self.measured),
            "trials": [each.as_dict() for each in self.trials],
        }


def families(
    n_items: int, factors: int, promised_recall: float, seconds: float, reaches: Sequence[float] = (1.0,)
) -> list[Family]:
    """What to try beside exact search; none where exactness is promised, or the catalogue is small.

    reaches: how closely the best rows point where their queries do, nearly all of them and fewer.
    """
    if promised_recall >= 1 or n_items < _FEWEST_ITEMS:
        return []
    lists = 1 << round(math.log2(math.sqrt(n_items)))
    probes = [2**i for i in range(int(math.log2(lists)))]
    work = n_items * factors
    wanted = [
        *(
            Family(
                factory,
                tuple(tuple(f"deviations={d:g},reach={reach:g}" for d in _DEVIATIONS) for reach in reaches),
                (bits - 1) * (0.2 + work * 4e-8),  # the first takes less than the exact table, and is always tried
            )
            for factory, bits in QUANTIZED.items()
            if factors <= _MOST_FACTORS // bits
        ),
        Family(f"IVF{lists},Flat", (tuple(f"nprobe={p}" for p in probes),), 1 + work * lists * 1.2e-10),
        Family(
            f"IVF{lists},PQ{_quantizers(factors)}x4fs",
            (tuple(f"nprobe={p},rerank={r}" for p in probes for r in (4, 12)),),
            5 + work * lists * 1.2e-10 + work * 1e-7,
        ),
        Family("HNSW32", (tuple(f"efSearch={2**i}" for i in range(4, 11)),), work * math.log2(n_items) * 1.5e-7),
    ]
    spent, chosen = 0.0, []
    for family in wanted:
        if spent + family.seconds <= seconds:
            spent += family.seconds
            chosen.append(family)
    return chosen


def choose(
    draft: Draft,
    vectors: Vectors,
    available: NDArray[np.bool_],
    queries: Mapping[str, Queries],
    promised_recall: float,
    seconds: float,
    progress: IndexProgress = SILENCE,
) -> list[Candidate]:
    """Build and measure in a draft; the fastest that keeps the promise comes first.

    The draft is left with the exact table alone: engine.calibration builds what is chosen beside it.
    """
    can_tune = any(len(each.vectors) > 1 for each in queries.values())
    n_items, factors = (len(vectors) if can_tune else 0), vectors.shape[1]
    progress.expects(1 + len(families(n_items, factors, promised_recall, seconds)))
    progress.begins(f"building and measuring {IndexPlan()}")
    add_table(draft, vectors)
    exact = Index(draft, vectors, IndexPlan(), available)
    known = {kind: each.answered(exact) for kind, each in queries.items() if len(each.vectors)}
    tuning = {kind: each.every_other(0) for kind, each in known.items() if len(each.vectors) > 1}
    judging = {kind: each.every_other(1) if kind in tuning else each for kind, each in known.items()}
    candidates = [candidate(exact, IndexPlan(), judging, promised_recall, 0.0, 0)]
    progress.ends(_told(candidates[0]))
    shares = (share * (1 - promised_recall) for share in _REACH_SHARES)
    reaches = list(dict.fromkeys(needed_reach(vectors, tuning, share) for share in shares))
    for family in families(n_items, factors, promised_recall, seconds, reaches):
        progress.begins(f"building {family.factory}")
        started = time.monotonic()
        told = []
        try:
            add_index(draft, vectors, IndexPlan(family.factory))
            build_seconds, size = time.monotonic() - started, draft.size_bytes(*APPROXIMATE_FILES)
            for ladder in family.ladders:
                plans = [IndexPlan(family.factory, setting) for setting in ladder]
                best = min(each.microseconds for each in candidates if each.kept)
                chosen, trials = _tuned(draft, vectors, available, plans, tuning, promised_recall, best, progress)
                if chosen is not None:
                    index = Index(draft, vectors, chosen, available)
                    judged = candidate(index, chosen, judging, promised_recall, build_seconds, size)
                    candidates.append(replace(judged, trials=trials))
                    told.append(_told(candidates[-1]))
                elif trials:
                    last = IndexPlan(family.factory, trials[-1].search_parameters)
                    candidates.append(Candidate(last, trials[-1].measured, False, build_seconds, size, trials))
            progress.ends("; ".join(told) or f"{family.factory}: none of its settings is faster and keeps the promise")
        except IndexUnsupported as error:
            progress.ends(f"{family.factory}: left out: {error}")
        finally:
            discard_approximate(draft)
    order = sorted(range(len(candidates)), key=lambda i: _rank(candidates[i], candidates[0]))
    return [candidates[i] for i in order]


def candidate(
    index: Index,
    plan: IndexPlan,
    queries: Mapping[str, Queries],
    promised_recall: float,
    build_seconds: float,
    size_bytes: int,
) -> Candidate:
    """Measure one index on each kind of query."""
    measured = {kind: measure(index, each) for kind, each in queries.items() if len(each.vectors)}
    return Candidate(plan, measured, _keeps(measured, promised_recall), build_seconds, size_bytes)


def fewest_in_blocks(files: Files, vectors: Vectors, plan: IndexPlan, queries: Mapping[str, Queries]) -> int:
    """From how many queries on products of matrices are faster than asking one by one; more than are ever asked."""
    blocks = Index(files, vectors, replace(plan, matrix_queries=1))
    alone = Index(files, vectors, replace(plan, matrix_queries=_NEVER))
    one_by_one = batch_microseconds(alone, queries, BATCHES[0])
    return next((size for size in BATCHES if batch_microseconds(blocks, queries, size) < one_by_one), _NEVER)


def _rank(each: Candidate, exact: Candidate) -> tuple[bool, float]:
    """Those that keep the promise first, then by time; what is exact is given a start."""
    return (not each.kept, each.microseconds * (_WORTH if each is exact else 1.0))


def _tuned(
    draft: Draft,
    vectors: Vectors,
    available: NDArray[np.bool_],
    plans: Sequence[IndexPlan],
    queries: Mapping[str, Queries],
    promised_recall: float,
    best: float,
    progress: IndexProgress,
) -> tuple[IndexPlan | None, list[Trial]]:
    """The cheapest of plans that keeps the promise on these queries with a reserve, and what was measured on the way.

    None where it would be slower than `best`.
    """
    wanted = promised_recall + _RESERVE * (1 - promised_recall)
    trials: list[Trial] = []
    for plan in plans:
        progress.tries(str(plan))
        index = Index(draft, vectors, plan, available)
        if np.mean([alone_microseconds(index, each) for each in queries.values()]) > _GAP * best:
            break
        measured = {kind: measure(index, each) for kind, each in queries.items()}
        trials.append(Trial(plan.search_parameters, measured))
        if _keeps(measured, wanted):
            return plan, trials[-_MOST_TRIALS:]
    return None, trials[-_MOST_TRIALS:]


def needed_reach(vectors: Vectors, queries: Mapping[str, Queries], share: float) -> float:
    """The reach that misses such a share of the best rows of each kind of query at most, in steps of .01.

    A row y is out of reach where the scan ends before it: where reach |q| |y| is below the k-th best score.
    """
    reach = 0.0
    for each in queries.values():
        needed = [np.empty(0)]
        for query, (rows, scores) in zip(each.vectors, each.best or (), strict=True):
            lengths = norms_of(vectors[rows]) * norms_of(query[np.newaxis])
            needed.append(scores[-1:] / np.where(lengths > 0, lengths, 1.0))
        reach = max(reach, float(np.quantile(np.concatenate([[0.0], *needed]), 1 - share, method="higher")))
    return min(1.0, math.ceil(100 * reach) / 100)


def _keeps(measured: Mapping[str, Measured], promised_recall: float) -> bool:
    return all(each.lower >= promised_recall for each in measured.values())


def _mean_microseconds(measured: Mapping[str, Measured]) -> float:
    return float(np.mean([each.microseconds for each in measured.values()])) if measured else 0.0


def _as_dict(measured: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    return {kind: each.as_dict() for kind, each in measured.items()}


def _quantizers(factors: int) -> int:
    """Half as many 4-bit codes as coordinates, where that divides them."""
    return next(m for m in range(max(1, factors // 2), 0, -1) if factors % m == 0)


def _told(each: Candidate) -> str:
    kinds = ", ".join(
        f"{kind} {found.recall:.4f} (at least {found.lower:.4f}) in {found.microseconds:.0f} us"
        for kind, found in each.measured.items()
    )
    return f"{each.plan}: {kinds}"
