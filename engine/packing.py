"""Bringing a recommender's vectors into the format that a release carries them in, and what that costs.

Items are packed (engine.vector_table); then all users are solved once more, exactly, against the items as they are
packed, and packed themselves, so that a stored history folds in to the stored vector as far as its own codes tell. The
spectrum becomes that of the packed items. Rows go into the files block by block: nothing here holds a table.
Checked by tests/test_packing.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.encoders import RidgeEncoder
from engine.histories import Histories
from engine.index import Index, add_table
from engine.measurement import RECALL_AT, Bags, Queries, cart_queries, user_queries
from engine.parts import ITEMS, SPECTRUM, USERS, TableNames, read_vectors
from engine.plan import IndexPlan
from engine.processor import resolved_threads
from engine.recall import recall_of
from engine.release import Draft
from engine.scoring import score_rows
from engine.vector_formats import FLOAT32
from engine.vector_table import Vectors, packed, table_of

_USERS_AT_ONCE = 1 << 16
_CHUNK = 1 << 9
"""Users that a thread solves in one go."""


@dataclass(frozen=True)
class Carried:
    """What a reader of a release will have: encoder, users, and the queries of each kind that they make.

    `packing` is the manifest's word for what packing cost, None where nothing was packed.
    """

    encoder: RidgeEncoder
    users: Vectors
    queries: Mapping[str, Queries]
    packing: Mapping[str, Any] | None


def carry(
    draft: Draft,
    encoder: RidgeEncoder,
    users: Vectors,
    histories: Histories,
    carts: Bags,
    available: NDArray[np.bool_],
    vector_format: str,
    threads: int = 0,
) -> Carried:
    """Write items, spectrum and users into a draft, in a format, and measure what that costs their exact answers.

    In the format that they have they are written as they are. `threads` solve users; 0 takes every core. Raises
    PublishFailed; ReleaseCorrupt where a user's solution is not finite.
    """
    bags = histories.indptr, histories.rows
    queries = {"user": user_queries(users, bags), "cart": cart_queries(encoder, carts)}
    items, found = encoder.item_vectors, table_of(encoder.item_vectors).format
    if found == vector_format:
        add_vectors(draft, encoder, users, histories, vector_format, threads)
        return Carried(encoder, users, queries, None)
    unpacked = Index(draft, items, IndexPlan(), available)  # its table is made in memory: the draft has none yet
    before = {kind: each.answered(unpacked) for kind, each in queries.items() if len(each.vectors)}
    del unpacked
    encoder, users = add_vectors(draft, encoder, users, histories, vector_format, threads)
    queries = {"user": user_queries(users, bags), "cart": cart_queries(encoder, carts)}
    add_table(draft, encoder.item_vectors)
    index = Index(draft, encoder.item_vectors, IndexPlan(), available)
    measured = packing_recalls(before, queries, items, index)
    return Carried(encoder, users, queries, {"from": found, "to": vector_format, "measured": measured})


def add_vectors(
    draft: Draft, encoder: RidgeEncoder, users: Vectors, histories: Histories, vector_format: str, threads: int = 0
) -> tuple[RidgeEncoder, Vectors]:
    """Write items, spectrum and users; returns the encoder and the users that a reader will have. As `carry`."""
    items = encoder.item_vectors
    if table_of(items).format == vector_format:
        for names, vectors in ((ITEMS, items), (USERS, users)):
            table = table_of(vectors)
            draft.add_array(names.codes, table.codes)
            if vector_format != FLOAT32:
                draft.add_array(names.scales, table.scales)
        draft.add_array(SPECTRUM, encoder.spectrum)
        return encoder, users
    _add(draft, ITEMS, table_of(items).blocks(), items.shape, vector_format)
    own = read_vectors(draft, ITEMS, vector_format, items.shape)
    spectrum = np.zeros(items.shape[1])
    for block in own.blocks():
        spectrum += np.einsum("nk,nk->k", block, block, dtype=np.float64)
    encoder = replace(encoder, item_vectors=own, spectrum=spectrum.astype(np.float32))
    draft.add_array(SPECTRUM, encoder.spectrum)
    shape = (len(users), items.shape[1])
    _add(draft, USERS, _solved(encoder, histories, threads), shape, vector_format)
    return encoder, read_vectors(draft, USERS, vector_format, shape)


def packing_recalls(
    before: Mapping[str, Queries], after: Mapping[str, Queries], vectors: Vectors, index: Index
) -> dict[str, dict[str, float]]:
    """The manifest's words for what packing cost: recall@20 of each kind of query, from end to end.

    What the packed queries `after` find in `index`, exactly, over packed items, is scored as the queries `before`, with
    their exact answers, score it over the items `vectors` that were packed.
    """
    costs = {}
    table = table_of(vectors)
    for kind, asked in before.items():
        found = index.exact(after[kind].vectors, RECALL_AT, asked.excluded)
        recalls = []
        for query, (rows, _), (_, exact) in zip(asked.vectors, found, asked.best or (), strict=True):
            scores = np.empty(len(rows), dtype=np.float32)
            score_rows(table.codes, table.scales, rows, query, scores)
            recalls.append(recall_of(scores, exact))
        if recalls:
            costs[kind] = {f"recall@{RECALL_AT}": float(np.mean(recalls)), "queries": len(recalls)}
    return costs


def told(manifest: Mapping[str, Any]) -> str:
    """What a manifest says of packing, in words; "" where nothing was packed."""
    packing = manifest.get("packing")
    if packing is None:
        return ""
    kinds = ", ".join(f"{kind} {cost[f'recall@{RECALL_AT}']:.4f}" for kind, cost in packing["measured"].items())
    return (
        f"vectors in {packing['to']}, packed from {packing['from']}: recall@{RECALL_AT} of those {kinds or 'unknown'}"
    )


def _add(
    draft: Draft,
    names: TableNames,
    blocks: Iterator[NDArray[np.float32]],
    shape: tuple[int, int],
    vector_format: str,
) -> None:
    scales = np.empty(shape[0], dtype=np.float32)

    def codes() -> Iterator[NDArray[Any]]:
        start = 0
        for block in blocks:
            table = packed(block, vector_format)
            scales[start : start + len(block)] = table.scales
            start += len(block)
            yield table.codes

    draft.add_blocks(names.codes, np.dtype(vector_format).type, shape, codes())
    draft.add_array(names.scales, scales)


def _solved(encoder: RidgeEncoder, histories: Histories, threads: int) -> Iterator[NDArray[np.float32]]:
    """All users from their histories, some at a time. Each row is solved by itself: the same bits by any threads."""
    n, factors = len(histories.indptr) - 1, encoder.item_vectors.shape[1]
    with ThreadPoolExecutor(resolved_threads(threads), thread_name_prefix="nearcart-pack") as pool:
        for start in range(0, n, _USERS_AT_ONCE):
            out = np.empty((min(_USERS_AT_ONCE, n - start), factors), dtype=np.float32)

            def solve(first: int, start: int = start, out: NDArray[np.float32] = out) -> None:
                part = out[first : first + _CHUNK]
                encoder.encode_rows(histories.indptr, histories.rows, histories.values, start + first, part)

            for _ in pool.map(solve, range(0, len(out), _CHUNK)):
                pass
            yield out
