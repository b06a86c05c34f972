"""The sparse parts of a recommender, learned from interactions: neighbours, regression, sessions, repeats.

Each is a memory (trainer.item_neighbours, item_regression, session_neighbours) with the encoder that asks it. What a
part counts, and how fast its queries forget, is found by trainer.blending. Checked by tests/test_sparse_models.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from engine.encoders import BagEncoder
from engine.errors import UsageError
from engine.kinds import ByKind
from engine.session_encoder import SessionEncoder
from engine.sparse_memory import SparseMemory
from engine.sparse_part import SparsePart
from trainer.contexts import Contexts, ContextSettings, contexts_of, is_ordered
from trainer.cooccurrence import UNORDERED, Order
from trainer.interactions import Csr, Interactions
from trainer.item_neighbours import NeighbourSettings, item_neighbours
from trainer.item_regression import RegressionSettings, item_regression
from trainer.learned import BOTH
from trainer.model_options import NEIGHBOURS, REGRESSION, REPEAT, SESSIONS, ModelOptions
from trainer.session_neighbours import SessionSettings, session_memory
from trainer.threads import Threads

NEWEST = 200
"""Items of a history that a query is made of, the newest: what bounds the cost of a user with thousands."""
_UNORDERED_DAMPING, _ORDERED_DAMPING = 0.5, 0.0
_BASKETS_PENALTY, _HISTORIES_PENALTY = 1.0, 3.0
"""Where these come from: docs/quality.md, "Whether the defaults fit"."""
_WINDOW = 30
"""Places beyond which items of a session are not together: from 5 to 100 nothing changed (retailrocket)."""
_SHARPNESS = 1.5
"""Of sessions, between the best of three sets: .6 and .9 (the bundled shop, diginetica) and 2.4 (completejourney)."""
_TWO_STEPS = 0.35
_NOW = ByKind(0.0, 0.0)


def learn_parts(
    interactions: Interactions,
    options: ModelOptions,
    neighbours: Mapping[str, int],
    threads: int = 0,
    on_step: Callable[[str], None] = lambda text: None,
) -> tuple[SparsePart, ...]:
    """The sparse parts of these names, in a fixed order, each counting 1 and forgetting nothing.

    `neighbours` names the parts, and says how many entries a row of each keeps, where rows are items.

    The same bits for any number of threads. Raises UsageError for a half-life without times; TrainingDiverged.
    """
    learned = []
    with threadpool_limits(1, "blas"), Threads(threads) as pool:
        contexts = None
        if set(neighbours) & {NEIGHBOURS, REGRESSION, SESSIONS}:
            contexts = contexts_for(interactions, options)
        if contexts is not None and REGRESSION in neighbours:
            on_step(f"{REGRESSION}: foretelling each of {contexts.n_items:,} items from others")
            penalty = default_penalty(interactions, options) if options.penalty is None else options.penalty
            settings = RegressionSettings(
                candidates=options.predictors, neighbours=neighbours[REGRESSION], regularization=penalty
            )
            learned.append(_of_items(REGRESSION, item_regression(contexts, settings, pool)))
        if contexts is not None and NEIGHBOURS in neighbours:
            on_step(f"{NEIGHBOURS}: counting pairs of {len(contexts):,} {_named(interactions, options)}")
            rows = _neighbours(contexts, interactions, options, neighbours[NEIGHBOURS], pool)
            learned.append(_of_items(NEIGHBOURS, rows))
        if contexts is not None and SESSIONS in neighbours:
            on_step(f"{SESSIONS}: indexing {len(contexts):,} {_named(interactions, options)}")
            learned.append(_of_sessions(contexts, options))
    if REPEAT in neighbours:
        learned.append(_of_items(REPEAT, _identity(interactions.n_items)))
    return tuple(learned)


def contexts_for(interactions: Interactions, options: ModelOptions) -> Contexts:
    """Baskets, or histories where there are none, weighed."""
    if options.contexts == "histories":
        interactions = dataclasses.replace(interactions, baskets=None)
    elif options.contexts == "baskets" and not interactions.baskets:
        raise UsageError(
            "--contexts baskets: found no basket of two items or more; name the column with --basket-column, or leave "
            "--contexts away"
        )
    half_life = options.context_half_life_days
    contexts = contexts_of(interactions, ContextSettings(options.history_weight, half_life_days=half_life))
    damping = options.size_damping
    return contexts.damped(default_size_damping(contexts) if damping is None else damping)


def default_size_damping(contexts: Contexts) -> float:
    """That of contexts with an order, or without."""
    return _ORDERED_DAMPING if is_ordered(contexts) else _UNORDERED_DAMPING


def _named(interactions: Interactions, options: ModelOptions) -> str:
    return "baskets" if interactions.baskets and options.contexts != "histories" else "histories"


def default_penalty(interactions: Interactions, options: ModelOptions) -> float:
    """That of a regression on baskets, or on histories."""
    return _BASKETS_PENALTY if _named(interactions, options) == "baskets" else _HISTORIES_PENALTY


def _neighbours(
    contexts: Contexts, interactions: Interactions, options: ModelOptions, neighbours: int, pool: Threads
) -> Csr:
    """By the similarity that is asked for."""
    ordered = is_ordered(contexts)
    order = Order(_WINDOW, options.distance_damping, options.backward_weight) if ordered else UNORDERED
    if options.similarity == "bm25":
        # It has a say of its own about the length of a context.
        undamped = dataclasses.replace(options, size_damping=options.size_damping or 0.0)
        contexts = contexts_for(interactions, undamped).as_bm25()
        settings = NeighbourSettings(neighbours, 0.0, 0.0, shrinkage=0.0, idf=True, order=order)
    elif options.similarity != "auto":
        settings = NeighbourSettings.named(options.similarity, neighbours=neighbours, order=order)
    elif ordered:
        settings = NeighbourSettings(neighbours, 0.5, 0.2, shrinkage=0.3, two_steps=_TWO_STEPS, order=order)
    else:
        settings = NeighbourSettings(neighbours, 0.7, 0.25, shrinkage=1.0, sharpness=2.0)
    return item_neighbours(contexts, settings, pool)


def _of_items(name: str, rows: Csr) -> SparsePart:
    return SparsePart(name, BOTH, BagEncoder(_NOW, NEWEST), SparseMemory(rows.indptr, rows.indices, rows.values))


def _of_sessions(contexts: Contexts, options: ModelOptions) -> SparsePart:
    postings, memory = session_memory(contexts, SessionSettings())
    return SparsePart(
        SESSIONS, BOTH, SessionEncoder(_NOW, NEWEST, options.nearest_sessions, _SHARPNESS, postings), memory
    )


def _identity(n_items: int) -> Csr:
    """Each item foretells itself: what a user took is taken again."""
    items = np.arange(n_items, dtype=np.int32)
    return Csr(np.arange(n_items + 1, dtype=np.int64), items, np.ones(n_items, dtype=np.float32), n_columns=n_items)
