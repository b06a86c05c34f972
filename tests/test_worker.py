"""A worker on its own: which releases it answers from, and what it tells of itself."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from fake_backend import FakeReleases, FakeSnapshot, channel_to
from nearcart.v1 import recommendation_pb2 as wire
from nearcart.v1 import recommendation_pb2_grpc
from small_release import publish, small_shop

from engine.repository import Repository
from engine.retrieval import Snapshot
from engine.serving import WorkerOptions
from engine.worker import Worker, opened_worker, resident_bytes

RELEASES = [f"release {n}" for n in (1, 2, 3)]


@contextlib.contextmanager
def started() -> Iterator[tuple[Worker, FakeReleases, recommendation_pb2_grpc.RecommendationServiceStub]]:
    releases = FakeReleases(*map(FakeSnapshot, RELEASES))
    worker = Worker(WorkerOptions(address="127.0.0.1:0"), releases.open)
    worker.bind()
    worker.start()
    try:
        with channel_to(worker.address) as channel:
            yield worker, releases, recommendation_pb2_grpc.RecommendationServiceStub(channel)
    finally:
        worker.stop(5)


def serve(worker: Worker, name: str) -> None:
    worker.serve(worker.load(Path(name)))


def test_a_request_may_name_the_live_release_or_the_one_before(snapshot_questions) -> None:
    with started() as (worker, _, stub):
        for name in RELEASES:
            serve(worker, name)
        for method, request in snapshot_questions(stub):
            for name in ("release 2", "release 3", ""):
                request.release_id = name
                assert method(request, timeout=10).release_id == (name or "release 3")
            request.release_id = "release 1"
            with pytest.raises(grpc.RpcError, match="not loaded here") as caught:
                method(request, timeout=10)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.fixture
def snapshot_questions():
    return lambda stub: [
        (stub.RecommendForUser, wire.RecommendForUserRequest(user_id="user 1")),
        (stub.RecommendForCart, wire.RecommendForCartRequest(item_ids=["item 1"])),
        (stub.RecommendSimilarItems, wire.RecommendSimilarItemsRequest(item_id="item 1")),
        (stub.BatchRecommendForUsers, wire.BatchRecommendForUsersRequest(user_ids=["user 1"])),
        (stub.BatchRecommendForCarts, wire.BatchRecommendForCartsRequest(carts=[wire.Cart(item_ids=["item 1"])])),
    ]


def test_going_back_loads_nothing() -> None:
    with started() as (worker, releases, stub):
        for name in ("release 1", "release 2", "release 1"):
            serve(worker, name)
        assert (
            stub.RecommendForUser(wire.RecommendForUserRequest(user_id="user 1"), timeout=10).release_id == "release 1"
        )
        assert releases.loads == ["release 1", "release 2"]


def test_what_is_loaded_again_is_read_again() -> None:
    """A release whose files were copied anew keeps its name."""
    with started() as (worker, releases, _):
        serve(worker, "release 1")
        serve(worker, "release 1")
        assert releases.loads == ["release 1"] * 2
        assert worker.figures()[0]["loaded"] == ["release 1"]


def test_a_worker_counts_its_calls() -> None:
    with started() as (worker, _, stub):
        with pytest.raises(grpc.RpcError, match="no release is loaded yet"):
            stub.GetRelease(wire.GetReleaseRequest(), timeout=10)
        serve(worker, "release 1")
        for _ in range(3):
            stub.RecommendForUser(wire.RecommendForUserRequest(user_id="user 1"), timeout=10)
        (figures,) = worker.figures()
        assert sorted(map(tuple, figures["calls"])) == [("GetRelease", "UNAVAILABLE", 1), ("RecommendForUser", "OK", 3)]
        assert sum(figures["stages"]["wait"]["buckets"]) == 4
        assert [sum(figures["stages"][stage]["buckets"]) for stage in ("read", "search", "write")] == [3] * 3
        assert figures["resident_bytes"] > 1_000_000
        assert figures["release_id"] == "release 1"


def test_stages_are_counted_whichever_way_a_call_is_answered(snapshot) -> None:
    worker = Worker(WorkerOptions(address="127.0.0.1:0"), lambda path, watch: snapshot)
    worker.bind()
    worker.start()
    try:
        serve(worker, "release 1")
        with channel_to(worker.address) as channel:
            stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
            stub.RecommendForUser(wire.RecommendForUserRequest(user_id="u3"), timeout=10)
            stub.RecommendForUser(wire.RecommendForUserRequest(user_id="u3", include_titles=True), timeout=10)
            stub.BatchRecommendForUsers(wire.BatchRecommendForUsersRequest(user_ids=["u3", "u4"]), timeout=10)
        (figures,) = worker.figures()
        assert [sum(figures["stages"][stage]["buckets"]) for stage in ("read", "search", "write")] == [3] * 3
    finally:
        worker.stop(5)


def test_memory_grows_with_what_is_kept() -> None:
    before = resident_bytes()
    kept = bytearray(b"x" * 50_000_000)
    assert resident_bytes() > before + 40_000_000
    assert len(kept) == 50_000_000


def test_a_release_is_asked_in_every_way_before_it_serves_and_nothing_of_it_is_counted(tmp_path, monkeypatch) -> None:
    ways = ("answer_users", "recommend_for_users", "recommend_for_carts", "similar_items")
    asked = Counter()

    def counted(way, ask):
        return lambda *arguments: (asked.update([way]), ask(*arguments))[1]

    for way in ways:
        monkeypatch.setattr(Snapshot, way, counted(way, getattr(Snapshot, way)))
    repository = Repository(tmp_path)
    publish(repository, small_shop(n_users=40, n_items=50))
    worker = opened_worker(WorkerOptions(address="127.0.0.1:0", recall_sample_share=1.0))
    try:
        worker.serve(worker.load(repository.current_path()))
        assert {way: asked[way] >= 20 for way in ways} == dict.fromkeys(ways, True)
        (figures,) = worker.figures()
        assert (figures["calls"], figures["recall"]["sampled"]) == ([], 0)
        assert sum(figures["batches"]["buckets"]) == sum(figures["stages"]["search"]["buckets"]) == 0
    finally:
        worker.stop(0)
