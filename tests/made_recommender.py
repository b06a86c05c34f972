"""Made parts over one catalogue, small whole numbers throughout, so that sums are exact and ties are many."""

from __future__ import annotations

import numpy as np

from engine.encoders import BagEncoder, RidgeEncoder
from engine.evidence import Evidence
from engine.index import Index
from engine.kinds import ByKind
from engine.recommender import DenseMemory
from engine.session_encoder import Postings, SessionEncoder
from engine.sparse_memory import SparseMemory
from engine.sparse_part import SparsePart


def made_memory(n_rows, n_items, most, seed):
    """Rows of up to `most` items with weights from -2 to 3."""
    generator = np.random.default_rng(seed)
    rows = [np.sort(generator.choice(n_items, generator.integers(0, most + 1), replace=False)) for _ in range(n_rows)]
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    items = np.concatenate(rows).astype(np.int32)
    return SparseMemory(indptr, items, generator.integers(-2, 4, len(items)).astype(np.float32))


def made_part(name, n_items, *, weight=ByKind(1, 1), recency=ByKind(0, 0), newest=1000, n_rows=None, seed=0):  # noqa: B008 - frozen
    memory = made_memory(n_items if n_rows is None else n_rows, n_items, 12, seed)
    return SparsePart(name, weight, BagEncoder(recency, newest), memory)


def made_dense(n_items, available, *, weight=ByKind(1, 1), n_users=5, d=16, seed=0):  # noqa: B008 - frozen
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-3, 4, size=(n_items, d)).astype(np.float32)
    vectors *= generator.choice([0, 1, 1, 2], size=(n_items, 1))
    vectors[1::2] = vectors[::2][: n_items // 2]
    spectrum = np.square(vectors).sum(axis=0)
    encoder = RidgeEncoder(vectors, spectrum, 0.1, 0.5, 1.0)
    users = generator.integers(-3, 4, size=(n_users, d)).astype(np.float32)
    return DenseMemory("als", weight, encoder, users, Index.in_memory(vectors, available))


def made_evidence(n_items, size, generator):
    """Items of whole weights, some disliked, of ages that repeat."""
    rows = np.sort(generator.choice(n_items, size, replace=False)).astype(np.int32)
    weights = generator.choice([1, 2, -1], size).astype(np.float32)
    return Evidence(rows, weights, generator.integers(0, 4, size).astype(np.int32))


def made_sessions(name, n_items, *, weight=ByKind(1, 1), recency=ByKind(0, 0), sharpness=1.0, nearest=6, seed=0):  # noqa: B008 - frozen
    """A part over 25 sessions; every item's postings are cut to its newest four."""
    generator = np.random.default_rng(seed)
    memory = made_memory(25, n_items, 9, seed)
    in_sessions = [np.flatnonzero([item in memory.row(row)[0] for row in range(25)])[-4:] for item in range(n_items)]
    postings = Postings(
        np.cumsum([0, *map(len, in_sessions)]).astype(np.int64),
        np.concatenate(in_sessions).astype(np.int32),
        generator.choice([1, 2], 25).astype(np.float32),
        generator.choice([0, 1, 3], n_items).astype(np.float32),
    )
    return SparsePart(name, weight, SessionEncoder(recency, 1000, nearest, sharpness, postings), memory)
