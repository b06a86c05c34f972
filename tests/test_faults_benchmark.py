"""benchmarks.faults: each part for a moment, that it notices what it is to notice, and numbers computed by hand."""

from __future__ import annotations

import math
import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from nearcart.v1 import recommendation_pb2 as wire

from benchmarks import fault_hostile, fault_kills, fault_overload, fault_soak, fault_swaps
from benchmarks.fault_setting import Setting
from benchmarks.fault_tables import summary, told
from benchmarks.hostile_clients import KINDS, Attack
from benchmarks.pinned_servers import Cores
from benchmarks.timed_calls import Calls, Record
from benchmarks.watched_server import Metrics, Sample, watched

SETTING = Setting("grpcio", Cores.of_this_machine(), 0.4, quick=True)


def calls_of(*calls: tuple[float, float, int], answers: dict[int, bytes] | None = None) -> Calls:
    """Calls by (due, seconds until the answer, status), counted from 0 to 100."""
    record = Record()
    for due, took, status in calls:
        record.end(record.begin(due, due, len(record.sent)), status, due + took)
    for call, answer in (answers or {}).items():
        record.answers[call] = bytes(5) + answer
    return Calls.of(record, "open", 10.0, (0.0, 100.0), 1, math.inf)


def lines(rows):
    return {line.name: line for line in summary(rows)}


@pytest.mark.slow
def test_swaps_of_a_real_server_are_counted_and_its_answers_judged(tmp_path):
    rows = list(fault_swaps.swap_rows(SETTING, tmp_path, 2, workers=1))
    assert rows[-1]["swaps"] == rows[-1]["swapped"] == 2
    found = lines(rows)
    for name in ("swaps: mixed or wrong answers", "swaps: failed calls"):
        assert found[name].value == 0
        assert found[name].passes
    assert found["swaps: answers that were right"].value >= sum(row["calls"] for row in rows)
    assert rows[0]["calls_during"] > 0
    assert rows[0]["p99_during_ms"] >= rows[0]["p50_during_ms"] > 0
    assert rows[-1]["resident_bytes"] > 50e6


def test_an_answer_is_judged_by_the_release_that_it_names():
    def answer(release_id: str, *items: str) -> bytes:
        return wire.RecommendForUserResponse(release_id=release_id, item_ids=items).SerializeToString()

    expected = {"old": [("a",), ("b",)], "new": [("c",), ("d",)]}
    answers = {0: answer("old", "a"), 1: answer("new", "b"), 2: answer("old", "a"), 3: answer("other", "x")}
    calls = calls_of(*[(1.0, 0.1, 0)] * 4, (2.0, 0.1, 14), answers=answers)
    calls.asked[:] = [0, 1, 1, 0, 0]  # the third got what the first user should have
    found = fault_swaps.judge(calls, expected)
    assert found == {"right": 1, "mixed": 1, "wrong": 2, "failed UNAVAILABLE": 1}
    row = {"mode": "swaps", "transport": "grpcio", "swaps": 1, "resident_bytes": 1.0, "swap_seconds": 1.0, **found}
    row |= fault_swaps.times(calls, [(0.5, 1.5)])
    assert (row["calls"], row["calls_during"]) == (5, 4)
    assert row["p99_during_ms"] == pytest.approx(100)
    assert row["p99_steady_ms"] is None
    found = lines([row])
    assert found["swaps: mixed or wrong answers"].value == 3
    assert not found["swaps: mixed or wrong answers"].passes
    assert not found["swaps: failed calls"].passes


@pytest.mark.slow
def test_killed_workers_are_restarted_and_clients_see_no_error(tmp_path):
    rows = list(fault_kills.kill_rows(SETTING, tmp_path, 1))
    found = lines(rows)
    assert found["kills: errors that clients saw"].value == 0, rows[-1]["errors"]
    assert found["kills: restarts that were counted"].passes
    assert rows[-1]["restarts"] == 1
    assert rows[-1]["workers_after"] == 2
    assert rows[-1]["calls"] > 50
    assert rows[-1]["longest_gap_ms"] > 0


def test_a_client_that_meets_nobody_counts_errors(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        load = fault_kills._Load(f"127.0.0.1:{taken.getsockname()[1]}", ["user-0000000"])
        fault_kills._wait(1.0)
        took, _ = load.end()
    assert sum(len(each.errors) for each in took) > 0
    assert not any(each.answered for each in took)


@pytest.mark.slow
def test_overloads_are_offered_and_what_became_of_the_calls_adds_up(tmp_path):
    rows = list(fault_overload.overload_rows(SETTING, tmp_path))
    offered = [row for row in rows if row["measured"] == "offered"]
    assert [row["times_peak"] for row in offered] == [0.5, 1.0, 2.0, 5.0] * 2
    for row in offered:
        assert row["offered"] == pytest.approx(row["times_peak"] * row["peak"])
        assert set(row["statuses"]) <= {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED"}
        assert row["begun_after_deadline"] == 0
        assert row["computed"] >= row["statuses"].get("OK", 0)
    assert offered[-1]["refused"].get("overloaded", 0) > 0, "sixteen at a time, and five times the peak"
    assert [row["kind"] for row in rows if row["measured"] == "refusals"] == ["calls", "floor"]
    assert all(0 < row["us_a_refusal"] < 10_000 for row in rows if row["measured"] == "refusals")
    assert len([row for row in rows if row["measured"] == "burst"]) == 2
    assert all(told(row).startswith("overload grpcio") for row in rows)
    assert not lines(rows)["overload, default in flight: ms of a search"].passes, "the quick one's is fast"


def test_recovery_ends_with_the_last_window_that_was_slow():
    due = np.arange(0.0, 4.0, 0.01)
    took = np.where((due > 2) & (due < 2.5), 0.3, 0.01)
    assert fault_overload.recovered(due, took, 2.0, 4.0, 0.02) == pytest.approx(0.6)
    assert fault_overload.recovered(due, np.full_like(due, 0.01), 2.0, 4.0, 0.02) == 0.0
    assert fault_overload.recovered(due, np.full_like(due, np.inf), 2.0, 4.0, 0.02) is None


@pytest.mark.slow
def test_hostile_clients_do_what_they_are_for_and_the_steady_load_does_not_fail(tmp_path):
    rows = {row["phase"]: row for row in fault_hostile.hostile_rows(SETTING, tmp_path)}
    assert list(rows) == ["before", *KINDS, "after"]
    for phase, row in rows.items():
        # Other tests take turns on the cores; what holds a server up fails every call of a phase.
        assert sum(row["errors"].values()) < 0.2 * row["calls"], (phase, row["errors"])
        assert row["calls"] > 20
        assert row["in_flight_afterwards"] == 0
    for kind in ("idle", "unfinished", "half-open", "slow"):
        assert rows[kind]["held"] > 10
        assert rows[kind]["open_files"] >= rows["before"]["open_files"] + 10
    for kind in ("half-open", "slow", "resets", "metadata", "huge"):
        assert rows[kind]["hostile_calls"] > 0
    found = lines(list(rows.values()))
    assert found["hostile: open files afterwards, more than before"].passes


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_to_attack_is_counted(kind):
    attack = Attack("127.0.0.1:1", 3)
    turn = KINDS[kind][0](attack)
    for _ in range(6):
        turn()
    assert attack.refused > 0
    assert attack.opened == attack.calls == 0


@pytest.mark.slow
def test_a_soak_mixes_what_it_says_and_its_memory_is_drawn(tmp_path):
    rows = list(fault_soak.soak_rows(SETTING, tmp_path / "releases", 0.06))
    assert len(rows) >= 2
    statuses = {status for row in rows for status in row["statuses"]}
    assert statuses == set(fault_soak.EXPECTED)
    share = sum(row["statuses"]["CANCELLED_HERE"] for row in rows) / sum(row["calls"] for row in rows)
    assert 0.02 < share < 0.2
    assert lines(rows)["soak: calls that ended as none should"].value == 0
    assert rows[-1]["in_flight_afterwards"] == 0
    picture = tmp_path / "soak.png"
    pytest.importorskip("matplotlib", reason="the extra nearcart[tune] is not installed")
    fault_soak.plot(rows, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_memory_that_grows_and_calls_that_stay_do_not_pass():
    rows = [
        {"mode": "soak", "transport": "grpcio", "minutes": float(minute), "anonymous_bytes": (200 + minute) * 2.0**20}
        | {"calls": 10, "unexpected": 1, "in_flight_afterwards": 2}
        for minute in range(31)
    ]
    found = lines(rows)
    assert found["soak: memory, MiB more an hour"].value == pytest.approx(60)
    for name in ("memory, MiB more an hour", "calls that ended as none should", "calls still under way at the end"):
        assert not found[f"soak: {name}"].passes


def test_metrics_are_summed_by_their_labels():
    labelled = [("0", "OK", 1), ("1", "OK", 2), ("1", "NO", 4)]
    samples = [Sample("n", {"worker": worker, "code": code}, value) for worker, code, value in labelled]
    metrics = Metrics([*samples, Sample("m", {}, 8)])
    assert metrics.sum("n") == 7
    assert metrics.sum("n", code="OK") == 3
    assert metrics.by("n", "worker") == {"0": 1, "1": 6}
    assert metrics.sum("absent") == 0


@pytest.mark.slow
def test_a_watched_server_shows_its_workers(tmp_path):
    from benchmarks.made_release import publish_made

    publish_made(tmp_path, 500, 8)
    with watched(SETTING.cores.server, tmp_path, "grpcio", "--workers", "2") as server:
        workers = server.worker_pids()
        assert len(workers) == 2
        assert all(Path(f"/proc/{pid}").exists() for pid in workers)
        assert server.metrics().sum("nearcart_workers") == 2
        assert server.resident_bytes() > server.anonymous_bytes() / 2 > 25e6
        os.kill(workers[0], signal.SIGKILL)
    assert not Path(f"/proc/{workers[1]}").exists()
