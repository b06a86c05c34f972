"""Releases of made shops (benchmarks/made_catalogue.py), published as a training publishes them, and users to ask for.

What the users asked for should get is known by brute force, so that answers over the wire can be judged: `AskedUsers`.
Checked by tests/test_latency_benchmark.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from nearcart.v1 import recommendation_pb2 as wire
from numpy.typing import NDArray

from benchmarks.catalogues import folded_in
from benchmarks.http2_requests import Request
from benchmarks.made_catalogue import Shop, made_shop
from benchmarks.search_quality import Truth, exact
from engine.histories import Histories
from engine.ids import IdTable
from engine.index import Index
from engine.index_progress import SILENCE
from engine.measurement import bags_of
from engine.parts import ITEMS
from engine.plan import AUTO, IndexPlan
from engine.recommender import DenseMemory
from engine.release import Release
from engine.repository import Repository
from engine.vector_formats import FLOAT32
from trainer.als import Embeddings
from trainer.interactions import Csr
from trainer.learned import Learned
from trainer.options import AlsOptions
from trainer.publishing import Contents, publish_contents

K = 20
"""Items of an answer: what a request that names no limit gets."""
_SERVICE = "/nearcart.v1.RecommendationService"
_ITEM = "item-"
_CANARY_CARTS = 250
_PROMISED_RECALL = 0.99
_INDEX_SECONDS = 10.0


def publish_made(releases: Path, n_items: int, factors: int) -> Release:
    """Make a shop and publish its release with the index that `nearcart train` would choose; it is promoted."""
    return publish_shop(releases, made_shop(n_items, factors), IndexPlan(AUTO))


def publish_shop(releases: Path, shop: Shop, plan: IndexPlan, n_users: int | None = None) -> Release:
    """Publish the release of a shop that was made; it is promoted. With `n_users` its users come again and again."""
    encoder, n_made = shop.encoder, len(shop.histories)
    n_users = n_made if n_users is None else n_users
    made = np.arange(n_users) % n_made
    histories = [shop.histories[user] for user in made.tolist()]
    n_items, factors = encoder.item_vectors.shape
    indptr = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    entries = np.concatenate(histories).astype(np.int32)
    by_user = Csr(indptr, entries, np.ones(len(entries), dtype=np.float32), n_columns=n_items)
    embeddings = Embeddings(
        user_vectors=folded_in(encoder, shop.histories)[made],
        item_vectors=encoder.item_vectors,
        spectrum=encoder.spectrum,
        unobserved_weight=encoder.unobserved_weight,
        options=AlsOptions(factors=factors),
        losses=(),
    )
    contents = Contents(
        user_ids=IdTable.of(f"user-{row:07}" for row in range(len(histories))),
        item_ids=IdTable.of(f"{_ITEM}{row:07}" for row in range(n_items)),
        by_user=by_user,
        n_events=by_user.n_entries,
        attributes={},
        available=np.ones(n_items, dtype=np.bool_),
        carts=bags_of([history[:10] for history in histories[:_CANARY_CARTS]]),
    )
    repository = Repository(releases)
    release_id = publish_contents(
        repository,
        contents,
        Learned(embeddings),
        {"made": {"items": n_items, "factors": factors}},
        plan=plan,
        promised_recall=_PROMISED_RECALL,
        promote=True,
        vectors=FLOAT32,
        index_seconds=_INDEX_SECONDS,
        progress=SILENCE,
        alignment=None,
    )
    return Release(repository.path(release_id))


@dataclass(frozen=True)
class AskedUsers:
    """Users of a release that are asked for again and again: vectors float32 (m, d), and what they have, rising."""

    index: Index
    item_vectors: NDArray[np.float32]
    ids: Sequence[str]
    vectors: NDArray[np.float32]
    excluded: Sequence[NDArray[np.int32]]

    @classmethod
    def of(cls, release: Release, n_asked: int) -> AskedUsers:
        """The first users of a made release, all of them where it has fewer."""
        sizes = release.manifest["sizes"]
        dense = DenseMemory.open(release, np.ones(sizes["items"], dtype=np.bool_))
        assert dense is not None
        histories, n = Histories.read(release), min(n_asked, sizes["users"])
        return cls(
            index=dense.index,
            item_vectors=release.array(
                ITEMS.codes, np.float32, (sizes["items"], release.manifest["parts"][0]["memory"]["factors"])
            ),
            ids=[f"user-{row:07}" for row in range(n)],
            vectors=np.array([dense.user_vectors[row] for row in range(n)], dtype=np.float32),
            excluded=[histories.of(row, sizes["items"]).rows for row in range(n)],
        )

    def requests(self) -> list[Request]:
        """One for each user."""
        path = f"{_SERVICE}/RecommendForUser"
        return [Request(path, wire.RecommendForUserRequest(user_id=each).SerializeToString()) for each in self.ids]

    def batches(self, size: int) -> list[Request]:
        """Of so many users each."""
        path = f"{_SERVICE}/BatchRecommendForUsers"
        batches = [self.ids[start : start + size] for start in range(0, len(self.ids) - size + 1, size)]
        return [Request(path, wire.BatchRecommendForUsersRequest(user_ids=ids).SerializeToString()) for ids in batches]

    @cached_property
    def truth(self) -> Truth:
        """Of users' vectors over all items, with each user's own left out."""
        last = np.empty(len(self.vectors))
        for user, (query, own) in enumerate(zip(self.vectors, self.excluded, strict=True)):
            scores = self.item_vectors @ query
            scores[own] = -np.inf
            best = np.argpartition(-scores, 2 * K)[: 2 * K]  # more than K: float32 may put the K-th too low
            last[user] = np.sort(self.item_vectors[best].astype(np.float64) @ query.astype(np.float64))[-K]
        return Truth(self.item_vectors, self.vectors, K, last)

    @cached_property
    def truth_of_all(self) -> Truth:
        """As `truth`, where nothing is left out."""
        return exact(self.item_vectors, self.vectors, K)

    def recall(self, users: Sequence[int], answers: Sequence[NDArray[np.integer]]) -> float:
        """Of answers, rows of items, to these users: the mean share of the true best K, by score; what a user has is
        no find."""
        if not len(answers):
            return float("nan")
        found = [
            np.where(np.isin(rows, self.excluded[user]), -1, rows) for user, rows in zip(users, answers, strict=True)
        ]
        return float(self.truth.among(np.asarray(users)).recalls(found).mean())

    def recall_of_payloads(self, users: Sequence[int], payloads: Sequence[bytes]) -> float:
        """Of answers as they came over the wire, to these users."""
        return self.recall(
            users, [rows_of(wire.RecommendForUserResponse.FromString(each).item_ids) for each in payloads]
        )

    def recall_of_batches(self, batches: Sequence[int], payloads: Sequence[bytes]) -> float:
        """As `recall_of_payloads`, of answers to `batches`, by place; all of one size."""
        users: list[int] = []
        answers: list[NDArray[np.int64]] = []
        for batch, payload in zip(batches, payloads, strict=True):
            answer = wire.BatchRecommendForUsersResponse.FromString(payload)
            counts = list(answer.counts)
            users += range(batch * len(counts), (batch + 1) * len(counts))
            answers += np.split(rows_of(answer.item_ids), np.cumsum(counts)[:-1])
        return self.recall(users, answers)


def rows_of(item_ids: Sequence[str]) -> NDArray[np.int64]:
    """The rows of a made release's items."""
    return np.array([int(each.removeprefix(_ITEM)) for each in item_ids], dtype=np.int64)
