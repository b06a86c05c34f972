"""Small made-up contexts, from and to plain lists, and sparse rows as full matrices."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from trainer.contexts import Contexts

N_ITEMS = 7

contexts_as_lists = st.lists(
    st.builds(
        lambda items, places, weight: (tuple(items), tuple(places[: len(items)]), weight),
        st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=N_ITEMS, unique=True),
        st.lists(st.integers(0, 4), min_size=N_ITEMS, max_size=N_ITEMS),
        st.sampled_from([1.0, 0.5, 0.3, 2.0]),
    ),
    max_size=12,
)
"""(items, places, weight) of each context."""


def contexts_from(listed, n_items=N_ITEMS):
    """Contexts of (items, places, weight), in whatever order their items are given."""
    in_order = [sorted(zip(places, items, strict=True)) for items, places, _ in listed]
    return Contexts(
        indptr=np.append(0, np.cumsum([len(each) for each in in_order])).astype(np.int64),
        indices=np.array([item for each in in_order for _, item in each], dtype=np.int32),
        places=np.array([place for each in in_order for place, _ in each], dtype=np.int32),
        seconds=np.full(len(listed), np.nan),
        weights=np.array([weight for _, _, weight in listed], dtype=np.float32),
        n_items=n_items,
    )


def listed(contexts):
    """What `contexts_from` takes."""
    bounds = list(zip(contexts.indptr[:-1], contexts.indptr[1:], strict=True))
    return [
        (tuple(contexts.indices[a:b].tolist()), tuple(contexts.places[a:b].tolist()), float(weight))
        for (a, b), weight in zip(bounds, contexts.weights, strict=True)
    ]


def random_contexts(n, n_items, seed, *, most=9, places=6):
    """Contexts of one to `most` items, popular ones more often, with weights that are no round numbers."""
    generator = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, n_items + 1)
    made = []
    for _ in range(n):
        size = int(generator.integers(1, most + 1))
        items = generator.choice(n_items, size, replace=False, p=popularity / popularity.sum())
        made.append((items.tolist(), generator.integers(0, places, size).tolist(), float(generator.uniform(0.2, 1.5))))
    return contexts_from(made, n_items)


def full(rows):
    """A Csr as a full float64 matrix; columns must rise within a row."""
    matrix = np.zeros((rows.n_rows, rows.n_columns))
    for row in range(rows.n_rows):
        columns, values = rows.row(row)
        assert (np.diff(columns) > 0).all()
        matrix[row, columns] = values
    return matrix
