"""Recall is a promise: an index enters a release only with its recall measured on that release's own queries.

Each kind of query (engine.measurement) must keep the promise by itself, at the lower 95% bound; otherwise nothing is
published. Which index that is, is given, or chosen among several (engine.choice).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.canaries import SCORED, add_canaries
from engine.choice import BATCHES, Candidate, candidate, choose, fewest_in_blocks
from engine.errors import RecallNotReached
from engine.frontier_plot import frontier_plot
from engine.histories import Histories
from engine.index import APPROXIMATE_FILES, TABLE, Index, add_index, check_plan, discard_approximate
from engine.index_progress import SILENCE, IndexProgress
from engine.measurement import (
    Bags,
    Measured,
    Queries,
    batch_microseconds,
    cart_queries,
    measure,
    parts_of,
    user_queries,
)
from engine.packing import carry
from engine.parts import ITEMS, SPECTRUM, USERS, DensePart
from engine.plan import AUTO, IndexPlan
from engine.recommender import DenseMemory, Recommender
from engine.release import INDEX_PICTURE, Draft, Release
from engine.repository import Repository
from engine.sparse_part import read_sparse_parts
from engine.vector_formats import require_no_finer
from engine.vector_table import Vectors

_OF_VECTORS = (*(f"{name}.npy" for name in (*ITEMS, *USERS, SPECTRUM, *SCORED)), f"{TABLE}/")
"""What a release with other vectors has anew."""


def add_measured_index(
    draft: Draft,
    plan: IndexPlan,
    item_vectors: Vectors,
    available: NDArray[np.bool_],
    queries: Mapping[str, Queries],
    promised_recall: float,
    seconds: float = 0.0,
    progress: IndexProgress = SILENCE,
) -> dict[str, Any]:
    """Build an index inside a draft and measure it on each kind of query; returns the manifest's "index".

    The plan AUTO chooses one, and may spend about so many seconds on building others. Raises RecallNotReached,
    IndexUnsupported, PublishFailed.
    """
    with threadpool_limits(1, "blas"):  # as when serving
        kinds = {kind: each for kind, each in queries.items() if len(each.vectors)}
        tried: list[Candidate] = []
        progress.expects(1)
        if plan.factory == AUTO:
            tried = choose(draft, item_vectors, available, kinds, promised_recall, seconds, progress)
        # What half of the queries judged well may fall on all of them; exact search, the last resort, cannot.
        planned_in_turn = [each.plan for each in tried if each.kept] or [plan]
        for planned in planned_in_turn:
            progress.begins(f"building and measuring {planned}")
            discard_approximate(draft)
            add_index(draft, item_vectors, planned)
            plan = planned
            if kinds:
                plan = replace(plan, matrix_queries=fewest_in_blocks(draft, item_vectors, plan, kinds))
            index = Index(draft, item_vectors, plan, available)
            chosen = candidate(index, plan, kinds, promised_recall, 0.0, 0)
            if chosen.kept or planned == planned_in_turn[-1]:
                progress.ends()
                break
            progress.expects(1)
            progress.ends(f"{planned}: below the promise on all queries together")
        for kind, found in chosen.measured.items():
            advice = f"Nothing was published: raise its search parameters, or use {AUTO!r}"
            _require(found, promised_recall, kind, plan, advice)
        tried.sort(key=lambda each: each.plan != planned)
        if tried and kinds:
            picture = frontier_plot(tried, promised_recall)
            draft.add_file(INDEX_PICTURE, lambda path: path.write_bytes(picture))
        return {
            "factory": plan.factory,
            "search_parameters": plan.search_parameters,
            "promised_recall": promised_recall,
            "measured": {kind: found.as_dict() for kind, found in chosen.measured.items()},
            "matrix_queries": plan.matrix_queries,
            "microseconds_in_batches": {str(size): batch_microseconds(index, kinds, size) for size in BATCHES if kinds},
            "candidates": [each.as_dict() for each in tried],
        }


def _require(found: Measured, promised_recall: float, kind: str, plan: IndexPlan, advice: str) -> None:
    if found.lower < promised_recall:
        raise RecallNotReached(
            f"the index {plan.factory!r} ({plan.search_parameters or 'default parameters'}) finds {found.recall:.4f} "
            f"of the true top 20 on {found.queries} {kind} queries (lower 95% bound {found.lower:.4f}); "
            f"{promised_recall:g} was promised. {advice}"
        )


def check_index(release: Release, seed: int) -> Iterator[tuple[str, Measured]]:
    """The recall of a release's index on queries that did not choose it: users and parts of histories drawn by `seed`.

    Raises RecallNotReached where it is below what the release promises, ReleaseError.
    """
    part = DensePart.of(release.held().manifest)
    promised_recall = float(release.manifest["index"]["promised_recall"])
    encoder = part.encoder(release)
    histories = _bags(release, "users/history")
    liked = release.array("users/history.values", np.float32, (part.n_entries,)) > 0
    available = release.array("items/available", np.bool_, (part.n_items,))
    queries = {
        "user": user_queries(part.user_vectors(release), histories, seed),
        "cart": cart_queries(encoder, parts_of(histories, liked, seed)),
    }
    index = Index(release, encoder.item_vectors, part.plan, available)
    with threadpool_limits(1, "blas"):
        for kind, each in queries.items():
            if len(each.vectors):
                found = measure(index, each)
                yield kind, found
                _require(found, promised_recall, kind, part.plan, "Rebuild it: `nearcart index`")


def rebuild_index(
    repository: Repository,
    release_id: str,
    plan: IndexPlan,
    promised_recall: float,
    *,
    promote: bool,
    vectors: str | None = None,
    seconds: float = 0.0,
    progress: IndexProgress = SILENCE,
) -> tuple[str, Mapping[str, Any]]:
    """Publish a copy of a release with another index; returns its id and the manifest's "index".

    `vectors` is the format to carry vectors in, no finer than the release's, None for that. Raises UsageError.
    """
    release = Release(repository.path(release_id)).held()
    manifest = dict(release.manifest)
    part = DensePart.of(manifest)
    check_plan(plan, part.factors)
    wanted = part.vectors if vectors is None else vectors
    require_no_finer(release_id, part.vectors, wanted)
    encoder = part.encoder(release)
    users: Vectors = part.user_vectors(release)
    histories, carts = _bags(release, "users/history"), _bags(release, "canaries/carts")
    available = release.array("items/available", np.bool_, (part.n_items,))
    left_out = (*APPROXIMATE_FILES, INDEX_PICTURE, *(_OF_VECTORS if wanted != part.vectors else ()))
    with repository.draft() as draft:
        for name in manifest["files"]:
            if not name.startswith(left_out):
                draft.adopt(release, name)
        if wanted == part.vectors:
            queries = {"user": user_queries(users, histories), "cart": cart_queries(encoder, carts)}
        else:
            values = release.array("users/history.values", np.float32, (part.n_entries,))
            for name in (*ITEMS.stored(part.vectors), *USERS.stored(part.vectors), SPECTRUM):
                release.verified_path(f"{name}.npy")
            carried = carry(draft, encoder, users, Histories(*histories, values), carts, available, wanted)
            encoder, users, queries = carried.encoder, carried.users, dict(carried.queries)
            manifest["parts"] = [{**manifest["parts"][0], "vectors": wanted}, *manifest["parts"][1:]]
            manifest["packing"] = carried.packing
        index = add_measured_index(
            draft, plan, encoder.item_vectors, available, queries, promised_recall, seconds, progress
        )
        if wanted != part.vectors:
            exact = Index(draft, encoder.item_vectors, IndexPlan(), available)
            dense = DenseMemory(part.name, part.weight, encoder, users, exact)
            recommender = Recommender(dense, read_sparse_parts(release), available)
            add_canaries(draft, recommender, Histories.read(release), carts)
        written = ("format_version", "release_id", "program", "created_at", "files", "checksum")
        fields = {key: value for key, value in manifest.items() if key not in written}
        fields |= {"index": index, "index_of": release_id}
        return repository.publish(draft, fields, promote=promote), index


def _bags(release: Release, name: str) -> Bags:
    starts = release.array(f"{name}.indptr", np.int64, (None,))
    return starts, release.array(f"{name}.indices", np.int32, (int(starts[-1]),))
