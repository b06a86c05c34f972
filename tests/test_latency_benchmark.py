"""benchmarks.latency: who is judged by what, numbers that hang together, and ratios computed from rows by hand."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from nearcart.v1 import recommendation_pb2 as wire

from benchmarks import bare_servers, latency
from benchmarks.latency_rounds import BATCH, Times
from benchmarks.latency_tables import summary, told
from benchmarks.made_release import AskedUsers, K, publish_made
from benchmarks.milvus_rival import MilvusFailed, MilvusRival
from benchmarks.pinned_servers import Cores, ServerFailed, on_core, serving

N_ITEMS, FACTORS = 2_000, 16


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return publish_made(tmp_path_factory.mktemp("made"), N_ITEMS, FACTORS)


@pytest.fixture(scope="module")
def asked(release):
    return AskedUsers.of(release, 128)


def rows_by_scan(asked, user):
    scores = asked.item_vectors.astype(np.float64) @ asked.vectors[user].astype(np.float64)
    scores[asked.excluded[user]] = -np.inf
    return np.argsort(-scores, kind="stable")[:K]


@pytest.fixture(scope="module")
def rows():
    plan = latency.Plan(
        sizes=((N_ITEMS, FACTORS),),
        transports=("grpcio", "native"),
        times=Times(0.3, 0.1),
        repeats=1,
        n_asked=128,
        cores=Cores.of_this_machine(),
        concurrency=None,
        milvus_venv=None,
    )
    return list(latency.measured(plan))


def test_a_scan_has_all_there_is_to_find_and_what_a_user_has_is_no_find(asked):
    best = [rows_by_scan(asked, user) for user in range(5)]
    assert asked.recall(range(5), best) == 1.0
    assert asked.recall([0, 1], [best[0], best[1][:10]]) == 0.75
    assert asked.recall([1, 0], [best[0], best[1]]) < 0.9, "each answer is judged by its own user"
    own = asked.excluded[0][: K // 2]
    assert asked.recall([0], [np.concatenate([own, best[0]])[:K]]) == pytest.approx(1 - len(own) / K)
    assert math.isnan(asked.recall([], []))


def test_answers_of_the_wire_are_judged_by_the_users_they_are_for(asked):
    best = [[f"item-{row:07}" for row in rows_by_scan(asked, user)] for user in range(4)]
    single = [wire.RecommendForUserResponse(item_ids=each).SerializeToString() for each in best]
    assert asked.recall_of_payloads([0, 1, 2, 3], single) == 1.0
    assert asked.recall_of_payloads([0, 1, 3, 2], single) < 1.0
    batches = [
        wire.BatchRecommendForUsersResponse(item_ids=best[i] + best[i + 1], counts=[K, K]).SerializeToString()
        for i in (0, 2)
    ]
    assert asked.recall_of_batches([0, 1], batches) == 1.0
    assert asked.recall_of_batches([1, 0], batches) < 1.0


def test_requests_name_the_users_in_turn(asked):
    assert [wire.RecommendForUserRequest.FromString(each.payload).user_id for each in asked.requests()] == asked.ids
    batches = asked.batches(BATCH)
    assert len(batches) == 2
    assert list(wire.BatchRecommendForUsersRequest.FromString(batches[1].payload).user_ids) == asked.ids[BATCH:]


def test_the_bare_handler_makes_the_search_and_answers_as_long_as_a_real_answer(release, asked, monkeypatch):
    handle = bare_servers.searching(release, 128)
    searched = []
    search = asked.index.__class__.search

    def watched(self, queries, k, excluded, allowed=None):
        searched.append((queries, k, excluded))
        return search(self, queries, k, excluded, allowed)

    monkeypatch.setattr(asked.index.__class__, "search", watched)
    answer = wire.RecommendForUserResponse.FromString(handle(asked.requests()[3].payload))
    ((queries, k, excluded),) = searched
    assert np.array_equal(queries[0], asked.vectors[3])
    assert k == len(answer.item_ids) == len(answer.scores) == K
    assert np.array_equal(excluded[0], asked.excluded[3])
    with pytest.raises(KeyError):
        handle(b"somebody else")


@pytest.mark.slow
def test_everybody_is_measured_or_says_why_not(rows):
    found = {(row["server"], row["transport"]) for row in rows if "absent" not in row}
    absent = {(row["server"], row["transport"]): row["absent"] for row in rows if "absent" in row}
    everybody = {("in process", "none"), ("milvus", "grpc-go")}
    everybody |= {(server, transport) for server in ("empty", "search", "full") for transport in ("grpcio", "native")}
    assert found | set(absent) == everybody
    assert not found & set(absent)
    assert {("in process", "none"), ("empty", "grpcio"), ("search", "grpcio"), ("full", "grpcio")} <= found
    assert absent["milvus", "grpc-go"] == "no --milvus-venv"
    assert all(
        absent[each] in told(row) for each in absent for row in rows if (row["server"], row["transport"]) == each
    )


@pytest.mark.slow
def test_every_row_of_a_load_has_its_load_and_no_call_fails_but_one_refused_for_the_load(rows):
    loads = [row for row in rows if row.get("loop") in ("open", "closed")]
    assert len(loads) >= 4 + 4 + 7
    for row in loads:
        # Arrivals do not wait for a machine that stands still: what is too much then is refused.
        assert set(row["errors"]) <= ({"RESOURCE_EXHAUSTED"} if row["loop"] == "open" else set()), row
        assert row["achieved"] > 10
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["in_flight_mean"] <= row["in_flight_max"]
        assert row["server_core"] in os.sched_getaffinity(0)
    shares = {row["share"]: row for row in loads if row["server"] == "full" and "share" in row}
    assert set(shares) >= {0.25, 0.5, 0.75, 0.9}
    assert [shares[share]["offered"] for share in (0.25, 0.5, 0.75, 0.9)] == sorted(
        row["offered"] for share, row in shares.items()
    )[: len(shares)]


@pytest.mark.slow
def test_the_timed_answers_have_the_recall_that_the_release_promises(rows):
    judged = [row for row in rows if "recall" in row]
    assert {row["server"] for row in judged} == {"in process", "full"}
    for row in judged:
        assert row["recall"] > 0.98, row
        assert row["answers_judged"] >= 20
    full = [row for row in rows if row["server"] == "full" and row.get("measured") == "saturation"]
    bare = [row for row in rows if row["server"] == "search" and row.get("measured") == "saturation"]
    assert full[0]["answer_bytes"] == pytest.approx(bare[0]["answer_bytes"], rel=0.05)


@pytest.mark.slow
def test_the_search_alone_takes_less_than_the_whole_answer(rows):
    took = {row["measured"]: row["us_a_call"] for row in rows if row["server"] == "in process"}
    assert set(took) == {"search", f"search of {BATCH}", "recommend_for_users", f"recommend_for_users of {BATCH}"}
    assert took["search"] < took["recommend_for_users"]
    assert took["search"] < took[f"search of {BATCH}"]


def test_ratios_are_those_of_the_medians():
    def row(server, transport, measured, **numbers):
        return {"items": 10, "factors": 2, "server": server, "transport": transport, "measured": measured, **numbers}

    rows = [
        *(row("in process", "none", "search", us_a_call=us) for us in (4.0, 5.0, 90.0)),
        row("in process", "none", "search of 64", queries_a_second=1_000.0),
        *(row("full", "native", "saturation", achieved=rate, recall=0.99) for rate in (9_000.0, 10_000.0, 12_000.0)),
        row("search", "native", "saturation", achieved=12_500.0),
        row("search", "native", "open loop at 0.25", p50_ms=0.05, p99_ms=0.1),
        row("full", "native", "one in flight", p50_ms=0.105, p99_ms=0.2),
        row("full", "native", "open loop at 0.25", p50_ms=0.1, p99_ms=0.25),
        row("full", "native", "open loop at 0.5", p50_ms=0.1, p99_ms=0.5),
        row("full", "native", "batches of 64", queries_a_second=900.0),
        row("milvus", "grpc-go", "saturation", achieved=500.0, recall=0.95),
        row("milvus", "grpc-go", "one in flight", p50_ms=2.0, p99_ms=4.0),
        {"items": 10, "factors": 2, "server": "full", "transport": "grpcio", "absent": "for a reason"},
    ]
    absent, found = summary(rows)
    expected = {
        "search_us": 5.0,
        "full_calls": 10_000,
        "full_spread": 0.3,
        "full_over_bare": 0.8,
        "beside_search_us": 95.0,
        "asked_calls": 20_000,
        "full_over_asked": 0.5,
        "p50_beside_search_ms": 0.1,
        "p99_over_p50_at_0.25": 2.5,
        "p99_over_p50_at_0.5": 5.0,
        "bare_p99_over_p50_at_0.25": 2.0,
        "batches_over_in_process": 0.9,
        "over_milvus": 20.0,
        "milvus_recall": 0.95,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(found["empty_calls"])
    assert absent["transport"] == "grpcio"
    assert math.isnan(absent["full_over_bare"])


def test_a_server_stays_on_its_core_and_one_that_fails_says_why():
    core = max(os.sched_getaffinity(0))
    where = "import os, sys; print(sorted(os.sched_getaffinity(0)), flush=True); sys.stdin.read()"
    python = Path(sys.executable)
    with serving(core, [str(python), "-c", where]) as address:
        assert address == f"[{core}]"
    with on_core(core):
        assert os.sched_getaffinity(0) == {core}
    with (
        pytest.raises(ServerFailed, match=r"ended with 3:\nno port"),
        serving(core, [str(python), "-c", "import sys; print('no port', file=sys.stderr); sys.exit(3)"]),
    ):
        pass


def test_a_milvus_that_does_not_start_is_an_error(asked, tmp_path):
    child = tmp_path / "bin" / "python"
    child.parent.mkdir()
    child.write_text("#!/bin/sh\nexit 7\n")
    child.chmod(0o755)
    with (
        pytest.raises(MilvusFailed, match="ended with 7"),
        MilvusRival(tmp_path, asked, Times(0.1, 0.1), Cores.of_this_machine()),
    ):
        pass


FAKE_MILVUS = """
import json, sys
best = json.load(open(sys.argv[0].replace("child.py", "best.json")))
most = int(open(sys.argv[0].replace("child.py", "most")).read())
print(json.dumps({"library": "Milvus", "version": "made up"}), flush=True)
for line in sys.stdin:
    command = json.loads(line)
    answer = {"address": "127.0.0.1:1"} if command["do"] == "start" else {}
    if command["do"] == "ask":
        right = min(most, command["ef"] // 32)
        answers = [[user, rows[:right]] for user, rows in enumerate(best)]
        answer = {"achieved": 10.0, "p50_ms": 1.0, "threads": command["threads"], "answers": answers}
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(("most", "ef", "recall"), [(20, 1024, 1.0), (8, 256, 0.4)])
def test_milvus_gets_the_ef_that_reaches_the_recall_or_the_last_that_was_worth_it(asked, tmp_path, most, ef, recall):
    scores = asked.vectors.astype(np.float64) @ asked.item_vectors.T.astype(np.float64)
    (tmp_path / "best.json").write_text(str(np.argsort(-scores, axis=1)[:, :K].tolist()))
    (tmp_path / "most").write_text(str(most))
    (tmp_path / "child.py").write_text(FAKE_MILVUS)
    child = tmp_path / "bin" / "python"
    child.parent.mkdir()
    child.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "child.py"} "$@"\n')
    child.chmod(0o755)
    with MilvusRival(tmp_path, asked, Times(0.1, 0.1), Cores.of_this_machine()) as rival:
        turn = rival.rounds(0)
        alone, many = next(turn), next(turn)
    assert [alone["measured"], many["measured"]] == ["own client, 1 in flight", "own client, 16 in flight"]
    assert [alone["threads"], many["threads"]] == [1, 16]
    assert alone["version"] == "made up"
    assert alone["ef"] == ef
    assert alone["recall"] == pytest.approx(recall)
