"""A small shop of made-up vectors that keeps every promise of a release, published through the engine alone.

Item vectors stand in the eigenbasis of their Gram matrix, user vectors are the float64 solution of the objective for
the stored histories (tests/reference.py), so a fold-in that gives them back is a fact about the row solver. Among the
items are copies of one another, a zero vector and sold-out items; among the users one who only disliked and one who has
all.

`python tests/small_release.py DIR` writes the golden release; tests/data/golden_v2 was made so, once, and never again:
tests/test_release.py reads it for as long as format version 1 is read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import reference

from engine.attributes import Attribute, Dates, Lists, add_attributes
from engine.calibration import add_measured_index
from engine.canaries import add_canaries
from engine.encoders import RidgeEncoder
from engine.histories import Histories
from engine.ids import IdTable, StringTable
from engine.index import Index
from engine.kinds import ByKind
from engine.packing import carry
from engine.plan import IndexPlan
from engine.recommender import DenseMemory, Recommender
from engine.release import Draft
from engine.repository import Repository
from engine.vector_formats import FLOAT32

ENCODER = {"unobserved_weight": 0.1, "regularization": 0.02, "regularization_exponent": 0.8}
GOLDEN_ID = "20260101T000000.000Z-golden"
COPIES = ((10, 3), (11, 3), (12, 4), (13, 5), (30, 3))
"""(row, the row whose vector it has)."""
ZERO_ROW, SOLD_OUT_ROWS = 14, (1, 5, 17, 30, 42, 59)
DISLIKES_USER, EVERYTHING_USER = "u37", "u38"
TAGS = ("new", "blue", "fragile")


@dataclass(frozen=True)
class Shop:
    """The arrays of a release before it is written; names as in docs/release-format.md."""

    user_ids: list[str]
    item_ids: list[str]
    item_vectors: np.ndarray
    spectrum: np.ndarray
    user_vectors: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray
    available: np.ndarray
    carts: tuple[np.ndarray, np.ndarray]
    attributes: dict[str, Attribute]


def small_shop(n_users=40, n_items=60, factors=8, seed=0):
    """The same shop for the same arguments."""
    generator = np.random.default_rng(seed)
    item_vectors, spectrum = _eigenbasis(_raw_vectors(n_items, factors, generator), n_items)
    indptr, indices, values = _histories(n_users, n_items, generator)
    weights, targets = reference.dense(indptr, indices, values, n_items)
    a0, regularization, nu = ENCODER.values()
    user_vectors = [
        reference.solve_row(
            weights[user],
            targets[user],
            item_vectors,
            a0,
            reference.row_penalty(count, a0, regularization, nu, n_items),
        )
        for user, count in enumerate(np.diff(indptr))
    ]
    available = np.ones(n_items, dtype=bool)
    available[[row for row in SOLD_OUT_ROWS if row < n_items]] = False
    carts = [np.sort(generator.choice(n_items, size, replace=False)) for size in (1, 2, 3, 5, 2, 1, 4, 3, 2, 6)]
    return Shop(
        [f"u{row}" for row in range(n_users)],
        [f"i{row:02}" for row in range(n_items)],
        item_vectors,
        spectrum,
        np.array(user_vectors, dtype=np.float32),
        indptr,
        indices,
        values,
        available,
        _rows_of(carts),
        {
            "title": StringTable.of("" if row % 7 == 6 else f"Tasse № {row}" for row in range(n_items)),
            "category": StringTable.of(("cups", "plates", "", "lamps")[row % 4] for row in range(n_items)),
            "price": np.where(np.arange(n_items) % 9 == 8, np.nan, np.arange(n_items) * 0.25 + 1),
            "giftable": np.arange(n_items) % 3 == 0,
            "added": Dates(np.where(np.arange(n_items) % 5 == 4, np.nan, 1.7e9 + 86_400.0 * np.arange(n_items))),
            "tags": lists_of([TAGS[: row % 4] if row % 2 else TAGS[row % 3 :] for row in range(n_items)]),
        },
    )


def publish(
    repository,
    shop,
    *,
    plan=IndexPlan(),  # noqa: B008 - frozen
    promised_recall=0.0,
    promote=True,
    draft=None,
    vectors=FLOAT32,
    weight=ByKind(1, 1),  # noqa: B008 - frozen
    sparse=(),
    ages=None,
):
    """Publish the shop as trainer.publishing would, sparse parts behind the dense one; returns the release's id."""
    encoder = RidgeEncoder(shop.item_vectors, shop.spectrum, **ENCODER)
    histories = Histories(shop.indptr, shop.indices, shop.values, ages)
    popularity = np.bincount(shop.indices, minlength=len(shop.item_ids)).astype(np.int32)
    with draft or repository.draft() as draft:
        draft.add_arrays("users/ids", IdTable.of(shop.user_ids).arrays())
        histories.store(draft)
        draft.add_arrays("items/ids", IdTable.of(shop.item_ids).arrays())
        draft.add_array("items/popularity", popularity)
        draft.add_array("items/popular_rows", np.argsort(-popularity, kind="stable").astype(np.int32))
        draft.add_array("items/available", shop.available)
        attributes = add_attributes(draft, shop.attributes)
        carried = carry(draft, encoder, shop.user_vectors, histories, shop.carts, shop.available, vectors)
        items, queries = carried.encoder.item_vectors, carried.queries
        draft.add_array("canaries/carts.indptr", shop.carts[0])
        draft.add_array("canaries/carts.indices", shop.carts[1])
        index = add_measured_index(draft, plan, items, shop.available, queries, promised_recall)
        exact = Index(draft, items, IndexPlan(), shop.available)
        dense = DenseMemory("als", weight, carried.encoder, carried.users, exact)
        add_canaries(draft, Recommender(dense, sparse, shop.available), histories, shop.carts)
        parts = [_dense_part(shop, vectors, weight), *(each.store(draft, i) for i, each in enumerate(sparse, start=1))]
        packing = {} if carried.packing is None else {"packing": carried.packing}
        return repository.publish(draft, _fields(shop, index, attributes, parts) | packing, promote=promote)


def lists_of(lists):
    """Lists of texts as a release holds them."""
    starts = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Lists(starts, StringTable.of(text for texts in lists for text in texts))


def write_golden(root):
    """Write the release that tests/data/golden_v2 holds, and a CURRENT that names it.

    The shop is golden_v1's too; a graph makes the release hold a FAISS index beside the table.
    """
    shop = small_shop(n_users=6, n_items=16, factors=3, seed=1)
    names = ["teacup", "saucer", "чайник", "湯呑み", "spoon", "café ☕", "0123", "lamp", "mug", "plate"]
    shop.item_ids[: len(names)] = names
    shop.user_ids[:3] = ["ann", "борис", "陳"]
    return publish(Repository(root), shop, draft=Draft(root, GOLDEN_ID), plan=IndexPlan("HNSW4"), promised_recall=0.99)


def _raw_vectors(n_items, factors, generator):
    """Normal directions with uneven energy and norms, as recommender vectors have."""
    vectors = generator.normal(size=(n_items, factors)) * np.geomspace(1, 0.1, factors)
    return vectors * generator.lognormal(sigma=0.7, size=(n_items, 1))


def _eigenbasis(raw, n_items):
    """Vectors with copies and a zero among them, rotated to their Gram's eigenbasis, largest energy first."""
    pairs = [(row, source) for row, source in COPIES if row < n_items]
    zero = [ZERO_ROW] if n_items > ZERO_ROW else []
    for row, source in pairs:
        raw[row] = raw[source]
    raw[zero] = 0
    rotation = np.linalg.eigh(raw.T @ raw)[1][:, ::-1]
    vectors = np.ascontiguousarray(raw @ rotation, dtype=np.float32)
    for row, source in pairs:
        vectors[row] = vectors[source]
    return vectors, np.square(vectors, dtype=np.float64).sum(axis=0).astype(np.float32)


def _histories(n_users, n_items, generator):
    """Half of the users with weights of 1, then weights of all kinds; one only dislikes, one has everything."""
    rows, values = [], []
    for user in range(n_users):
        size = n_items if f"u{user}" == EVERYTHING_USER else int(generator.integers(1, min(20, n_items // 2)))
        rows.append(np.sort(generator.choice(n_items, size, replace=False)))
        kinds = [1.0] if user < n_users // 2 else [1.0, 2.5, 0.2, -0.7]
        values.append(generator.choice([-0.5] if f"u{user}" == DISLIKES_USER else kinds, size))
    indptr, indices = _rows_of(rows)
    return indptr, indices, np.concatenate(values).astype(np.float32)


def _rows_of(lists):
    starts = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return starts, np.concatenate(lists).astype(np.int32)


def _dense_part(shop, vectors, weight):
    return {
        "name": "als",
        "weight": 1.0 if weight == (1, 1) else weight._asdict(),
        "encoder": {"kind": "ridge", **ENCODER},
        "memory": {"kind": "dense", "factors": shop.item_vectors.shape[1]},
        "vectors": vectors,
    }


def _fields(shop, index, attributes, parts):
    sizes = {"users": len(shop.user_ids), "items": len(shop.item_ids), "entries": len(shop.indices)}
    return {
        "sizes": {**sizes, "events": 2 * len(shop.indices)},
        "parts": parts,
        "index": index,
        "attributes": attributes,
        "metrics": {"loss": 1.5},
        "losses": [2.0, 1.5],
        "events": {"rows_read": 2 * len(shop.indices)},
        "configuration": {"factors": shop.item_vectors.shape[1]},
    }


if __name__ == "__main__":
    print(write_golden(Path(sys.argv[1])))
