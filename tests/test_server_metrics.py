"""What a server exports: over a real socket, from a real release, and named in the documentation."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from fake_backend import FakeReleases, backend, channel_to, server_options, serving
from nearcart.v1 import recommendation_pb2 as wire
from nearcart.v1 import recommendation_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from small_release import publish, small_shop

from engine.plan import IndexPlan
from engine.repository import Repository
from engine.server import Server
from engine.server_metrics import ServerMetrics

OPERATIONS = Path(__file__).parent.parent / "docs" / "operations.md"


def scraped(server):
    """(name, release_id or "") -> value."""
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as response:
        text = response.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        (sample.name, sample.labels.get("release_id", "")): sample.value
        for sample in samples
        if sample.name.startswith("nearcart_recall_")
    }


def recall_of_a_release(repository, n_calls):
    """What /metrics says after so many calls, all of which are sampled."""
    options = server_options(repository.root, admin_address="", metrics_address="127.0.0.1:0", recall_sample_share=1.0)
    with Server(options) as server:
        with channel_to(server.address) as channel:
            stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
            for n in range(n_calls):
                stub.RecommendForUser(wire.RecommendForUserRequest(user_id=f"u{n}", limit=20), timeout=10)
        release_id = repository.current()
        while (found := scraped(server))["nearcart_recall_window_searches", release_id] < n_calls:
            pass  # until the thread is through; the test's time limit ends a wait in vain
        assert found.pop(("nearcart_recall_sampled_searches_total", "")) == n_calls
        assert found.pop(("nearcart_recall_dropped_searches_total", "")) == 0
        assert {release for _, release in found} == {release_id}
        return {name.removeprefix("nearcart_recall_"): value for (name, _), value in found.items()}


@pytest.fixture(scope="module")
def large_shop():
    return small_shop(n_items=3000, seed=3)


def test_metrics_tell_that_an_exact_release_keeps_its_promise(large_shop, tmp_path):
    repository = Repository(tmp_path)
    publish(repository, large_shop, promised_recall=0.99)
    found = recall_of_a_release(repository, 20)
    assert found == {"promised": 0.99, "window_searches": 20, "estimate": 1.0, "estimate_lower_95": 1.0}


def test_metrics_tell_that_a_release_is_worse_than_exact(large_shop, tmp_path):
    repository = Repository(tmp_path)
    publish(repository, large_shop, plan=IndexPlan("IVF64,Flat", "nprobe=1"), promised_recall=0.01)
    found = recall_of_a_release(repository, 20)
    assert 0 < found["estimate_lower_95"] < found["estimate"] < 0.9
    assert (found["promised"], found["window_searches"]) == (0.01, 20)


def test_metrics_without_searches_have_no_estimate():
    with serving(metrics_address="127.0.0.1:0") as server:
        names = {name for name, _ in scraped(server)}
    assert names == {
        "nearcart_recall_sampled_searches_total",
        "nearcart_recall_dropped_searches_total",
        "nearcart_recall_window_searches",  # and no promise: the fake release makes none
    }


def test_metrics_answer_while_no_release_is_loaded():
    releases = FakeReleases()
    server = Server(
        server_options(admin_address="", metrics_address="127.0.0.1:0"),
        backend(releases),
    )
    seen = {}
    server.holder._open = lambda path: seen.update(scraped(server)) or releases.snapshots[path.name]
    with server:
        assert {release for _, release in seen} == {""}


def test_the_metrics_port_is_closed_at_the_end():
    with serving(metrics_address="127.0.0.1:0") as server:
        address = server.metrics_address
    with serving(metrics_address=address) as server:
        assert server.metrics_address == address


def test_without_a_metrics_address_nothing_listens_and_nothing_is_sampled(small_repository):
    options = server_options(small_repository.root, admin_address="", recall_sample_share=1.0)
    with Server(options) as server:
        with channel_to(server.address) as channel:
            stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
            stub.RecommendForUser(wire.RecommendForUserRequest(user_id="u1"), timeout=10)
        sampler = server.serving._sampler
        assert (server.metrics_address, sampler.n_sampled, sampler.is_busy) == ("", 0, False)


def test_every_metric_is_in_the_page_about_operations():
    documented = set(re.findall(r"^\| `(nearcart_\w+)` \|", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE))
    with serving() as server:
        collected = list(ServerMetrics(server.serving, server.holder).collect())
    assert documented == {f"{each.name}_total" if each.type == "counter" else each.name for each in collected}
