"""Recall is a promise: an index enters a release only with its recall measured on that release's own queries.

Queries are of the real kinds, user vectors and folded-in carts, which are not distributed like items. Each kind must
keep the promise by itself, at the lower 95% bound; otherwise nothing is published.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.encoders import RidgeEncoder
from engine.errors import RecallNotReached, ReleaseCorrupt
from engine.index import Index, IndexPlan, build_index, measure_recall
from engine.release import INDEX_FILE, Draft, Release
from engine.repository import Repository
from engine.scoring import best_of_rows

RECALL_AT = 20
MAX_QUERIES = 500
"""Queries measured of each kind."""
N_CANARIES = 8
CANARY_LENGTH = 10

Carts = tuple[NDArray[np.int64], NDArray[np.int32]]
"""Row starts int64 (carts + 1,) and item rows int32 (items,)."""


def cart_vectors(encoder: RidgeEncoder, carts: Carts) -> NDArray[np.float32]:
    """Encode each cart, every item with weight 1: float32 (carts, d)."""
    starts, rows = carts
    vectors = [
        encoder.encode(cart, np.ones(len(cart), dtype=np.float32))
        for cart in (rows[starts[i] : starts[i + 1]] for i in range(len(starts) - 1))
    ]
    return np.stack(vectors) if vectors else np.empty((0, encoder.item_vectors.shape[1]), dtype=np.float32)


def add_measured_index(
    draft: Draft,
    plan: IndexPlan,
    item_vectors: NDArray[np.float32],
    available: NDArray[np.bool_],
    user_vectors: NDArray[np.float32],
    carts: NDArray[np.float32],
    promised_recall: float,
) -> dict[str, Any]:
    """Build the index inside a draft and measure it; returns the manifest's "index". Raises RecallNotReached."""
    draft.add_file(INDEX_FILE, lambda path: build_index(item_vectors, plan, path))
    index = Index(draft.directory / INDEX_FILE, item_vectors, plan, available)
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.choice(len(user_vectors), min(MAX_QUERIES, len(user_vectors)), replace=False))
    measured = {
        kind: _measure(index, queries, plan, kind, promised_recall)
        for kind, queries in {"user": user_vectors[chosen], "cart": carts[:MAX_QUERIES]}.items()
        if len(queries)
    }
    return {
        "factory": plan.factory,
        "search_parameters": plan.search_parameters,
        "promised_recall": promised_recall,
        "measured": measured,
    }


def canary_scores(
    item_vectors: NDArray[np.float32], available: NDArray[np.bool_], carts: Carts, vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The best scores of the first few carts, by scan: float32 (canaries, length). A snapshot must repeat them."""
    starts, rows = carts
    found = []
    for i in range(min(N_CANARIES, len(vectors))):
        allowed = available.copy()
        allowed[rows[starts[i] : starts[i + 1]]] = False
        allowed_rows = np.flatnonzero(allowed).astype(np.int32)
        found.append(best_of_rows(item_vectors, allowed_rows, vectors[i], CANARY_LENGTH)[1])
    length = min((len(scores) for scores in found), default=0)
    return np.array([scores[:length] for scores in found], dtype=np.float32).reshape(len(found), length)


def rebuild_index(
    repository: Repository, release_id: str, plan: IndexPlan, promised_recall: float, *, promote: bool
) -> tuple[str, Mapping[str, Any]]:
    """Publish a copy of a release with another index; returns its id and the manifest's "index"."""
    release = Release(repository.path(release_id))
    manifest = dict(release.manifest)
    sizes, part = manifest["sizes"], manifest["parts"][0]
    factors, encoder = int(part["memory"]["factors"]), dict(part["encoder"])
    if encoder.pop("kind") != "ridge":
        raise ReleaseCorrupt(f"release {release_id} has no ridge encoder, so its queries cannot be made")
    item_vectors = release.array("parts/0/item_vectors", np.float32, (sizes["items"], factors))
    spectrum = release.array("parts/0/spectrum", np.float32, (factors,))
    starts = release.array("canaries/carts.indptr", np.int64, (None,))
    carts = (starts, release.array("canaries/carts.indices", np.int32, (int(starts[-1]),)))
    with repository.draft() as draft:
        for name in manifest["files"]:
            if name != INDEX_FILE:
                draft.adopt(release, name)
        index = add_measured_index(
            draft,
            plan,
            item_vectors,
            release.array("items/available", np.bool_, (sizes["items"],)),
            release.array("parts/0/user_vectors", np.float32, (sizes["users"], factors)),
            cart_vectors(RidgeEncoder(item_vectors, spectrum, **encoder), carts),
            promised_recall,
        )
        written = ("format_version", "release_id", "created_at", "files", "checksum")
        fields = {key: value for key, value in manifest.items() if key not in written}
        fields |= {"index": index, "index_of": release_id}
        return repository.publish(draft, fields, promote=promote), index


def _measure(
    index: Index, queries: NDArray[np.float32], plan: IndexPlan, kind: str, promised_recall: float
) -> dict[str, float]:
    recalls = measure_recall(index, queries, RECALL_AT)
    lower = float(recalls.mean() - 1.645 * recalls.std() / np.sqrt(len(recalls)))
    nothing = np.empty(0, dtype=np.int32)
    seconds = []
    for query in queries[:100]:
        started = time.perf_counter()
        index.search(query[np.newaxis], RECALL_AT, [nothing])
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
