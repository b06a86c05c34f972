"""From vectors to a published release: what serving needs, in the layout of docs/release-format.md."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.attributes import Attribute, add_attributes
from engine.calibration import add_measured_index
from engine.canaries import add_canaries
from engine.histories import Histories
from engine.ids import IdTable
from engine.index import Index
from engine.index_progress import SILENCE, IndexProgress
from engine.kinds import ByKind
from engine.measurement import MAX_QUERIES, Bags, bags_of
from engine.packing import carry, told
from engine.parts import EXPORT_ROTATION
from engine.plan import IndexPlan
from engine.recommender import DenseMemory, Recommender
from engine.release import Draft
from engine.repository import Repository
from engine.vector_formats import FLOAT32
from trainer.als import Embeddings
from trainer.export import Alignment
from trainer.interactions import Csr, Interactions
from trainer.items import Items
from trainer.learned import DENSE_NAME, Learned

_log = logging.getLogger("nearcart")

_MAX_SAMPLED_CART = 60


@dataclass(frozen=True)
class Contents:
    """What a release holds beside vectors: ids, histories, what is known of the items, and carts to measure with.

    `n_events` are the rows of events behind the histories.
    """

    user_ids: IdTable
    item_ids: IdTable
    by_user: Csr
    n_events: int
    attributes: Mapping[str, Attribute]
    available: NDArray[np.bool_]
    carts: Bags


def publish_release(
    repository: Repository,
    interactions: Interactions,
    items: Items,
    learned: Learned,
    *,
    plan: IndexPlan,
    promised_recall: float,
    configuration: Mapping[str, Any],
    seed: int = 42,
    promote: bool,
    vectors: str = FLOAT32,
    index_seconds: float = 0.0,
    progress: IndexProgress = SILENCE,
    alignment: Alignment | None = None,
) -> str:
    """Write and publish what a training learned; returns its id. As `publish_contents`."""
    contents = Contents(
        user_ids=interactions.user_ids,
        item_ids=interactions.item_ids,
        by_user=interactions.by_user,
        n_events=interactions.report.rows_kept,
        attributes=items.attributes,
        available=items.available,
        carts=sample_carts(interactions, np.random.default_rng(seed)),
    )
    losses = () if learned.embeddings is None else learned.embeddings.losses
    fields = {
        "metrics": {**({"loss": losses[-1]} if losses else {}), **learned.metrics},
        "losses": list(losses),
        "events": interactions.report.as_dict(),
        "configuration": dict(configuration),
    }
    return publish_contents(
        repository,
        contents,
        learned,
        fields,
        plan=plan,
        promised_recall=promised_recall,
        promote=promote,
        vectors=vectors,
        index_seconds=index_seconds,
        progress=progress,
        alignment=alignment,
    )


def publish_contents(
    repository: Repository,
    contents: Contents,
    learned: Learned,
    fields: Mapping[str, Any],
    *,
    plan: IndexPlan,
    promised_recall: float,
    promote: bool,
    vectors: str,
    index_seconds: float,
    progress: IndexProgress,
    alignment: Alignment | None,
) -> str:
    """Write and publish a release; returns its id. Raises PublishFailed, IndexUnsupported, RecallNotReached.

    `fields` of the manifest are those that say where the release comes from; `vectors` is the format to carry them in.
    With an alignment, the release's vectors are exported through its rotation, otherwise as they are.
    """
    by_user, carts, available = contents.by_user, contents.carts, contents.available
    histories = Histories(by_user.indptr, by_user.indices, by_user.values, learned.ages)
    with repository.draft() as draft:
        draft.add_arrays("users/ids", contents.user_ids.arrays())
        histories.store(draft)
        attributes = _add_items(draft, contents)
        draft.add_array("canaries/carts.indptr", carts[0])
        draft.add_array("canaries/carts.indices", carts[1])
        written: dict[str, Any] = {
            "sizes": {
                "users": len(contents.user_ids),
                "items": len(contents.item_ids),
                "entries": by_user.n_entries,
                "events": contents.n_events,
            },
            "parts": [],
            "index": {},
            "attributes": attributes,
        }
        dense, embeddings = None, learned.embeddings
        if embeddings is not None:
            encoder, users, threads = embeddings.encoder(), embeddings.user_vectors, embeddings.options.threads
            carried = carry(draft, encoder, users, histories, carts, available, vectors, threads)
            items, queries = carried.encoder.item_vectors, carried.queries
            if alignment is not None:
                draft.add_array(EXPORT_ROTATION, alignment.rotation)
                written["aligned_to"] = alignment.release_id
            written["index"] = add_measured_index(
                draft, plan, items, available, queries, promised_recall, index_seconds, progress
            )
            written["parts"].append(_dense_part(embeddings, learned.dense_weight, vectors))
            if carried.packing is not None:
                written["packing"] = carried.packing
                _log.info("%s", told(written))
            exact = Index(draft, items, IndexPlan(), available)
            dense = DenseMemory(DENSE_NAME, learned.dense_weight, carried.encoder, carried.users, exact)
        written["parts"] += [part.store(draft, len(written["parts"]) + i) for i, part in enumerate(learned.sparse)]
        add_canaries(draft, Recommender(dense, learned.sparse, available), histories, carts)
        return repository.publish(draft, {**written, **fields}, promote=promote)


def _dense_part(embeddings: Embeddings, weight: ByKind, vectors: str) -> dict[str, Any]:
    """The manifest's words."""
    options = embeddings.options
    return {
        "name": DENSE_NAME,
        "weight": weight._asdict(),
        "encoder": {
            "kind": "ridge",
            "unobserved_weight": embeddings.unobserved_weight,
            "regularization": options.regularization,
            "regularization_exponent": options.regularization_exponent,
        },
        "memory": {"kind": "dense", "factors": options.factors},
        "vectors": vectors,
    }


def sample_carts(interactions: Interactions, generator: np.random.Generator) -> Bags:
    """Real carts to measure the index with: baskets of up to 60 items, or parts of histories where there are none."""
    baskets, by_user = interactions.baskets or None, interactions.by_user  # no baskets are as good as none known
    n = by_user.n_rows if baskets is None else len(baskets)
    carts = []
    for row in np.sort(generator.choice(n, min(MAX_QUERIES, n), replace=False)).tolist():
        if baskets is not None:
            cart, limit = baskets.indices[baskets.indptr[row] : baskets.indptr[row + 1]], _MAX_SAMPLED_CART
        else:
            items, values = by_user.row(row)
            cart, limit = items[values > 0], int(generator.integers(1, 11))
        if len(cart):
            carts.append(np.sort(generator.choice(cart, min(len(cart), limit), replace=False)).astype(np.int32))
    return bags_of(carts)


def _add_items(draft: Draft, contents: Contents) -> list[dict[str, str]]:
    """Ids, popularity, availability and attributes; returns the manifest's list of attributes."""
    popularity = contents.by_user.liked_by_column()
    draft.add_arrays("items/ids", contents.item_ids.arrays())
    draft.add_array("items/popularity", popularity)
    draft.add_array("items/popular_rows", np.argsort(-popularity, kind="stable").astype(np.int32))
    draft.add_array("items/available", contents.available)
    return add_attributes(draft, contents.attributes)
