"""A shop of thirty items and five users that needs no files and no FAISS, and servers of it on free ports."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from engine.errors import PromotionRefused, ReleaseCorrupt, ReleaseNotFound, UnknownItem, UnknownUser
from engine.ids import StringTable
from engine.queries import Answer, CartQuery, Repeat, SimilarQuery, Source, UserQuery
from engine.server import Backend, Server, ServerOptions
from engine.service import ServedSnapshot
from engine.serving import WorkerOptions
from engine.worker import Worker

ITEMS = [f"item {n}" for n in range(30)]
USERS = [f"user {n}" for n in range(5)]


class FakeSnapshot:
    """Answers the first allowed items, and remembers what it was asked. `meanwhile` runs before every answer."""

    def __init__(self, release_id: str = "release 1") -> None:
        self.release_id = release_id
        self.manifest: dict[str, Any] = {
            "sizes": {"users": len(USERS), "items": len(ITEMS), "entries": 77},
            "created_at": "2026-11-22T07:00:00+00:00",
            "format_version": 1,
            "metrics": {"recall@20": 0.25, "popularity": {"recall@20": 0.125}},
            "parts": [{"name": "als", "weight": 1.0}, {"name": "neighbours", "weight": {"user": 0.5, "cart": 2.0}}],
            "index": {"factory": "Flat", "measured": {"user": {"recall@20": 0.75, "median_microseconds": 8.5}}},
        }
        self.asked: list[UserQuery | CartQuery | SimilarQuery] = []
        self.meanwhile: Callable[[], object] = lambda: None

    @property
    def item_ids(self) -> StringTable:
        return StringTable.of(ITEMS)

    def answer_users(self, user_ids: Sequence[str], limit: int) -> None:
        return None

    def recommend_for_users(self, queries: Sequence[UserQuery]) -> list[Answer]:
        return [self._user(query) for query in queries]

    def recommend_for_carts(self, queries: Sequence[CartQuery]) -> list[Answer]:
        return [self._cart(query) for query in queries]

    def similar_items(self, query: SimilarQuery) -> Answer:
        if query.item_id not in ITEMS:
            raise UnknownItem(f"this shop does not hold the item {query.item_id[:128]!r}")
        return self._first(query, [query.item_id], [query.item_id], Source.SIMILAR)

    def titles(self, item_ids: Sequence[str]) -> list[str]:
        return [each.upper() if each != ITEMS[0] else "" for each in item_ids]

    def _user(self, query: UserQuery) -> Answer:
        known = query.user_id in USERS
        if query.strict and not known:
            raise UnknownUser(f"this shop does not hold the user {query.user_id[:128]!r}")
        recent = query.recent_item_ids
        answer = self._first(query, (), recent, Source.PERSONAL if known else Source.POPULAR)
        return replace(answer, unknown_item_ids=_unknown(recent))

    def _cart(self, query: CartQuery) -> Answer:
        answer = self._first(query, query.item_ids, query.item_ids, Source.CART)
        return replace(answer, unknown_item_ids=_unknown(query.item_ids))

    def _first(
        self, query: UserQuery | CartQuery | SimilarQuery, hidden: Sequence[str], asked: Sequence[str], source: Source
    ) -> Answer:
        """Of m known items that are asked with, the n-th gives n / (1 + ... + m) of every score."""
        self.asked.append(query)
        self.meanwhile()
        excluded = {*hidden, *query.exclude_item_ids}
        allowed = query.allowed_item_ids or ITEMS
        item_ids = [each for each in ITEMS if each in allowed and each not in excluded][: query.limit]
        if getattr(query, "repeat", None) is Repeat.ONLY:
            item_ids = item_ids[:3]
        answer = Answer(item_ids, np.linspace(1, 0, len(item_ids), dtype=np.float32), source)
        if not query.shares:
            return answer
        known = [each for each in asked if each in ITEMS]
        parts = np.arange(1, len(known) + 1) / max(1, sum(range(len(known) + 1)))
        return replace(answer, shares=np.outer(answer.scores, parts), share_item_ids=known)


class FakeReleases:
    """Releases as plain values: `snapshots` by id, the damaged ones, and which one CURRENT names."""

    def __init__(self, *snapshots: FakeSnapshot) -> None:
        self.snapshots = {each.release_id: each for each in snapshots or (FakeSnapshot(),)}
        self.damaged: set[str] = set()
        self.refused: set[str] = set()
        self.failure: Exception | None = None
        self.now: str | None = next(iter(self.snapshots))
        self.loads: list[str] = []
        self.verified = threading.Semaphore(0)

    def current(self) -> str | None:
        return self.now

    def path(self, release_id: str) -> Path:
        if release_id not in self.snapshots:
            raise ReleaseNotFound(f"there is no release {release_id!r}")
        return Path(release_id)

    def require_passes(self, release_id: str) -> None:
        self.path(release_id)
        if release_id in self.refused:
            raise PromotionRefused(release_id, "half of the users")

    def promote(self, release_id: str, *, force: bool = False) -> None:
        self.path(release_id)
        self._check(release_id)
        self.now = release_id

    def restore(self, release_id: str) -> None:
        self.promote(release_id)

    def previous_ids(self) -> list[str]:
        return sorted((each for each in self.snapshots if self.now is not None and each < self.now), reverse=True)

    def verify(self, release_id: str) -> None:
        try:
            self._check(release_id)
        finally:
            self.verified.release()

    def open(self, path: Path, watch: object = None) -> ServedSnapshot:
        self.loads.append(path.name)
        if self.failure is not None:
            raise self.failure
        return self.snapshots[path.name]

    def _check(self, release_id: str) -> None:
        if release_id in self.damaged:
            raise ReleaseCorrupt(f"{release_id}/vectors.npy: found checksum 12, expected 34")


def _unknown(item_ids: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in item_ids if each not in ITEMS))


def backend(releases: FakeReleases) -> Backend:
    return Backend(releases, lambda options, workers: Worker(options, releases.open))


@contextlib.contextmanager
def serving(releases: FakeReleases | None = None, **options: Any) -> Iterator[Server]:
    """A server of the fake shop on free ports."""
    with Server(server_options(**options), backend(releases or FakeReleases())) as server:
        yield server


def server_options(releases: Path = Path(), **options: Any) -> ServerOptions:
    """Of a server, those of its workers among them."""
    settings: dict[str, Any] = {"address": "127.0.0.1:0", "poll_seconds": 0.0, "verify_after_start": False, **options}
    of_worker = {name: settings.pop(name) for name in set(settings) & {each.name for each in fields(WorkerOptions)}}
    return ServerOptions(releases, WorkerOptions(**of_worker), **settings)


@contextlib.contextmanager
def channel_to(address: str) -> Iterator[grpc.Channel]:
    # Servers of the tests before may have had the same port: without its own subchannels, this channel could inherit
    # their broken connection and its back-off.
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel
