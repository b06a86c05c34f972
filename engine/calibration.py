"""Recall is a promise: an index enters a release only with its recall measured on that release's own queries.

Queries are of the real kinds, user vectors and folded-in carts, which are not distributed like items, and leave out
what serving leaves out, histories and carts, because exclusions cost an approximate index recall. Each kind must keep
the promise by itself, at the lower 95% bound; otherwise nothing is published.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.encoders import RidgeEncoder
from engine.errors import RecallNotReached
from engine.index import Index, IndexPlan, build_index, measure_recall
from engine.parts import DensePart
from engine.release import INDEX_FILE, Draft, Release
from engine.repository import Repository
from engine.scoring import best_of_rows

RECALL_AT = 20
MAX_QUERIES = 500
"""Queries measured of each kind."""
_TIMED_QUERIES = 100
N_CANARIES = 8
CANARY_LENGTH = 10

Bags = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Carts or histories: starts int64 (bags + 1,) and item rows int32 (items,)."""


@dataclass(frozen=True)
class Queries:
    """Queries of one kind: vectors float32 (m, d), and for each the rows that must not come back, as when serving."""

    vectors: NDArray[np.float32]
    excluded: Sequence[NDArray[np.int32]]


def cart_queries(encoder: RidgeEncoder, carts: Bags) -> Queries:
    """Each cart folded in, every item with weight 1; its own items do not come back."""
    bags = [_bag(carts, i) for i in range(len(carts[0]) - 1)]
    vectors = np.empty((len(bags), encoder.item_vectors.shape[1]), dtype=np.float32)
    for i, cart in enumerate(bags):
        vectors[i] = encoder.encode(cart, np.ones(len(cart), dtype=np.float32))
    return Queries(vectors, bags)


def user_queries(user_vectors: NDArray[np.float32], histories: Bags) -> Queries:
    """A sample of MAX_QUERIES users; their histories do not come back."""
    n = len(user_vectors)
    chosen = np.sort(np.random.default_rng(0).choice(n, min(MAX_QUERIES, n), replace=False))
    return Queries(user_vectors[chosen], [_bag(histories, user) for user in chosen.tolist()])


def add_measured_index(
    draft: Draft,
    plan: IndexPlan,
    item_vectors: NDArray[np.float32],
    available: NDArray[np.bool_],
    queries: Mapping[str, Queries],
    promised_recall: float,
) -> dict[str, Any]:
    """Build the index inside a draft and measure it on each kind of query; returns the manifest's "index".

    Raises RecallNotReached, IndexUnsupported, PublishFailed.
    """
    draft.add_file(INDEX_FILE, lambda path: build_index(item_vectors, plan, path))
    index = Index(draft.directory / INDEX_FILE, item_vectors, plan, available)
    measured = {
        kind: _measure(index, each, plan, kind, promised_recall) for kind, each in queries.items() if len(each.vectors)
    }
    return {
        "factory": plan.factory,
        "search_parameters": plan.search_parameters,
        "promised_recall": promised_recall,
        "measured": measured,
    }


def canary_scores(
    item_vectors: NDArray[np.float32], available: NDArray[np.bool_], carts: Queries
) -> NDArray[np.float32]:
    """The best scores of the first few carts, by scan: float32 (canaries, length). A snapshot must repeat them."""
    found = []
    for vector, cart in zip(carts.vectors[:N_CANARIES], carts.excluded, strict=False):
        allowed = available.copy()
        allowed[cart] = False
        allowed_rows = np.flatnonzero(allowed).astype(np.int32)
        found.append(best_of_rows(item_vectors, allowed_rows, vector, CANARY_LENGTH)[1])
    length = min((len(scores) for scores in found), default=0)
    return np.array([scores[:length] for scores in found], dtype=np.float32).reshape(len(found), length)


def rebuild_index(
    repository: Repository, release_id: str, plan: IndexPlan, promised_recall: float, *, promote: bool
) -> tuple[str, Mapping[str, Any]]:
    """Publish a copy of a release with another index; returns its id and the manifest's "index"."""
    release = Release(repository.path(release_id))
    manifest = dict(release.manifest)
    part = DensePart.of(manifest)
    encoder = part.encoder(release)
    queries = {
        "user": user_queries(part.user_vectors(release), _bags(release, "users/history")),
        "cart": cart_queries(encoder, _bags(release, "canaries/carts")),
    }
    with repository.draft() as draft:
        for name in manifest["files"]:
            if name != INDEX_FILE:
                draft.adopt(release, name)
        index = add_measured_index(
            draft,
            plan,
            encoder.item_vectors,
            release.array("items/available", np.bool_, (part.n_items,)),
            queries,
            promised_recall,
        )
        written = ("format_version", "release_id", "program", "created_at", "files", "checksum")
        fields = {key: value for key, value in manifest.items() if key not in written}
        fields |= {"index": index, "index_of": release_id}
        return repository.publish(draft, fields, promote=promote), index


def _bag(bags: Bags, i: int) -> NDArray[np.int32]:
    starts, rows = bags
    return rows[starts[i] : starts[i + 1]]


def _bags(release: Release, name: str) -> Bags:
    starts = release.array(f"{name}.indptr", np.int64, (None,))
    return starts, release.array(f"{name}.indices", np.int32, (int(starts[-1]),))


def _measure(index: Index, queries: Queries, plan: IndexPlan, kind: str, promised_recall: float) -> dict[str, float]:
    recalls = measure_recall(index, queries.vectors, RECALL_AT, queries.excluded)
    lower = float(recalls.mean() - 1.645 * recalls.std() / np.sqrt(len(recalls)))
    seconds = []
    for query, excluded in zip(queries.vectors[:_TIMED_QUERIES], queries.excluded, strict=False):
        started = time.perf_counter()
        index.search(query[np.newaxis], RECALL_AT, [excluded])
        seconds.append(time.perf_counter() - started)
    if lower < promised_recall:
        raise RecallNotReached(
            f"the index {plan.factory!r} ({plan.search_parameters or 'default parameters'}) finds {recalls.mean():.4f} "
            f"of the true top {RECALL_AT} on {len(recalls)} {kind} queries (lower 95% bound {lower:.4f}); "
            f"{promised_recall:g} was promised. Nothing was published: raise its search parameters, or use 'Flat'"
        )
    return {
        f"recall@{RECALL_AT}": float(recalls.mean()),
        "lower_95": lower,
        "queries": len(recalls),
        "median_microseconds": float(np.median(seconds) * 1e6),
    }
