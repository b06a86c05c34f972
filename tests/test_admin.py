"""AdminService over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from fake_backend import FakeReleases, FakeSnapshot, channel_to, serving
from nearcart.v1 import admin_pb2 as wire
from nearcart.v1 import admin_pb2_grpc, recommendation_pb2, recommendation_pb2_grpc

from engine.errors import ReleaseCorrupt, ReleaseIncompatible
from engine.server import Server


@pytest.fixture
def releases() -> FakeReleases:
    return FakeReleases(FakeSnapshot("release 1"), FakeSnapshot("release 2"))


@pytest.fixture
def server(releases: FakeReleases) -> Iterator[Server]:
    with serving(releases) as server:
        yield server


@pytest.fixture
def stub(server: Server) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    with channel_to(server.admin_address) as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


def serving_release(server: Server) -> str:
    with channel_to(server.address) as channel:
        public = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        return public.GetRelease(recommendation_pb2.GetReleaseRequest(), timeout=10).release_id


def test_promoted_and_rolled_back_releases_serve_when_the_call_returns(server: Server, stub: Any) -> None:
    assert serving_release(server) == "release 1"
    assert stub.PromoteRelease(wire.PromoteReleaseRequest(release_id="release 2"), timeout=10).release_id == "release 2"
    assert serving_release(server) == "release 2"
    assert stub.RollbackRelease(wire.RollbackReleaseRequest(), timeout=10).release_id == "release 1"
    assert serving_release(server) == "release 1"


def test_reloading_says_whether_it_loaded(releases: FakeReleases, server: Server, stub: Any) -> None:
    response = stub.ReloadRelease(wire.ReloadReleaseRequest(), timeout=10)
    assert (response.release_id, response.loaded) == ("release 1", False)
    releases.now = "release 2"
    response = stub.ReloadRelease(wire.ReloadReleaseRequest(), timeout=10)
    assert (response.release_id, response.loaded) == ("release 2", True)
    assert serving_release(server) == "release 2"


@pytest.mark.parametrize("failure", [ReleaseCorrupt("bad file"), ReleaseIncompatible("format 99"), OSError("disk")])
def test_a_release_that_cannot_be_loaded_is_a_failed_precondition(
    releases: FakeReleases, server: Server, stub: Any, failure: Exception
) -> None:
    releases.failure = failure
    with pytest.raises(grpc.RpcError, match="FAILED_PRECONDITION"):
        stub.PromoteRelease(wire.PromoteReleaseRequest(release_id="release 2"), timeout=10)
    assert serving_release(server) == releases.now == "release 1"
    status = stub.GetStatus(wire.GetStatusRequest(), timeout=10)
    assert status.load_state == wire.LOAD_STATE_FAILED
    assert str(failure) in status.last_error


def test_the_status_tells_what_is_going_on(releases: FakeReleases, server: Server, stub: Any) -> None:
    serving_release(server)
    releases.now = "release 2"
    status = stub.GetStatus(wire.GetStatusRequest(), timeout=10)
    assert (status.release_id, status.current_release_id) == ("release 1", "release 2")
    assert (status.load_state, status.verification) == (wire.LOAD_STATE_LOADED, wire.VERIFICATION_OFF)
    assert (status.in_flight, status.answered, status.last_error) == (0, 1, "")
    assert status.uptime_seconds > 0
    assert status.loaded_at.seconds > 0


def test_the_status_counts_calls_being_answered(releases: FakeReleases, server: Server, stub: Any) -> None:
    seen: list[int] = []
    releases.snapshots["release 1"].meanwhile = lambda: seen.append(
        stub.GetStatus(wire.GetStatusRequest(), timeout=10).in_flight
    )
    with channel_to(server.address) as channel:
        public = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        public.RecommendForUser(recommendation_pb2.RecommendForUserRequest(user_id="user 1"), timeout=10)
    assert seen == [1]


def test_the_gate_refuses_and_force_passes_it() -> None:
    releases = FakeReleases(FakeSnapshot("release 1"), FakeSnapshot("release 2"))
    releases.refused.add("release 2")
    with serving(releases) as server, channel_to(server.admin_address) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="half of the users") as caught:
            stub.PromoteRelease(wire.PromoteReleaseRequest(release_id="release 2"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION  # type: ignore[attr-defined]
        assert releases.loads == ["release 1"], "nothing is loaded that may not serve"
        stub.PromoteRelease(wire.PromoteReleaseRequest(release_id="release 2", force=True), timeout=10)
        assert stub.GetStatus(wire.GetStatusRequest(), timeout=10).release_id == "release 2"
