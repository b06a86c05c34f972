"""benchmarks/recall.py and its parts: recall by score, tables and frontiers from rows, the made catalogue, filters."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from benchmarks import recall, recall_tables, search_rivals, search_seam
from benchmarks.catalogues import CART_LENGTHS
from benchmarks.made_catalogue import GOWALLA, made_catalogue, profile_of
from benchmarks.search_filters import masks
from benchmarks.search_nearcart import built_nearcart
from benchmarks.search_quality import exact
from benchmarks.search_rivals import RIVALS
from benchmarks.search_rounds import Entry, Mode, near_frontier
from benchmarks.search_seam import Ask, Built, augmented, padded

N, D, K = 1_500, 16, 20


@pytest.fixture(scope="module")
def catalogue():
    return made_catalogue(N, D, seed=3)


@pytest.fixture(scope="module")
def large():
    return made_catalogue(80_000, 64, seed=4)


def test_a_tie_at_the_last_place_is_found_whichever_row_comes_back():
    vectors = np.array([[3, 0], [2, 0], [0, 2], [1, 1], [0, 0]], dtype=np.float32)
    truth = exact(vectors, np.array([[1, 1]], dtype=np.float32), k=2)
    assert truth.last == [2.0]
    assert truth.recalls([[0, 1]]) == truth.recalls([[0, 3]]) == truth.recalls([[1, 2]]) == [1.0]
    assert truth.recalls([[0, 4]]) == [0.5]


def test_what_comes_back_twice_or_not_at_all_counts_once_and_never():
    truth = exact(np.eye(4, dtype=np.float32), np.array([[4, 3, 2, 1]], dtype=np.float32), k=3)
    assert truth.recalls([[0, 0, 0]]) == pytest.approx([1 / 3])
    assert truth.recalls([[0, -1, -1]]) == pytest.approx([1 / 3])
    assert truth.recalls([np.array([0, 1], dtype=np.uint64)]) == pytest.approx([2 / 3])
    assert truth.recalls([[3, 0, 1, 2]]) == pytest.approx([2 / 3]), "rows beyond k are no part of the answer"


def test_the_truth_is_the_kth_score_by_definition(catalogue):
    queries = catalogue.queries["user"][:5]
    allowed = np.arange(N) % 3 == 0
    for mask in (None, allowed):
        scores = queries.astype(np.float64) @ catalogue.vectors[slice(None) if mask is None else mask].T.astype("f8")
        expected = np.sort(scores, axis=1)[:, -K]
        np.testing.assert_allclose(exact(catalogue.vectors, queries, K, mask).last, expected, rtol=1e-12)


def test_fewer_allowed_items_than_k_are_all_there_is_to_find(catalogue):
    allowed = np.zeros(N, dtype=bool)
    allowed[[4, 9]] = True
    truth = exact(catalogue.vectors, catalogue.queries["user"][:1], K, allowed)
    assert truth.k == 2
    assert truth.recalls([[4, 9]]) == [1.0]
    allowed[:] = False
    assert exact(catalogue.vectors, catalogue.queries["user"][:1], K, allowed).recalls([[]]) == [1.0]


def test_the_made_catalogue_has_the_norms_and_the_energies_of_a_real_one(large):
    found = profile_of(large.vectors)
    np.testing.assert_allclose(found.norms[1:-1], GOWALLA.norms[1:-1], rtol=0.05)
    np.testing.assert_allclose(found.energies, GOWALLA.energies, atol=0.08)
    np.testing.assert_allclose(found.means, GOWALLA.means, atol=0.15)


def test_the_made_catalogue_is_in_the_eigenbasis_of_its_gram_matrix(large):
    gram = large.vectors.T.astype(np.float64) @ large.vectors
    np.testing.assert_allclose(np.diag(gram), large.encoder.spectrum, rtol=1e-3)
    assert (np.diff(np.diag(gram)) <= 0).all()
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-3 * gram[0, 0]


def test_the_made_catalogue_has_clusters(large):
    directions = large.vectors / np.linalg.norm(large.vectors, axis=1, keepdims=True)
    some = np.random.default_rng(0).permutation(len(directions))[:300]
    nearest = np.sort(directions[some] @ directions.T, axis=1)[:, -20]
    shuffled = np.random.default_rng(1).permuted(directions, axis=0)
    shuffled /= np.linalg.norm(shuffled, axis=1, keepdims=True)
    assert np.median(nearest) > 1.2 * np.median(np.sort(shuffled[some] @ shuffled.T, axis=1)[:, -20])


def test_the_same_seed_gives_the_same_catalogue_and_another_seed_another(catalogue):
    again, other = made_catalogue(N, D, seed=3), made_catalogue(N, D, seed=4)
    assert np.array_equal(again.vectors, catalogue.vectors)
    assert all(np.array_equal(again.queries[kind], catalogue.queries[kind]) for kind in catalogue.queries)
    assert not np.array_equal(other.vectors, catalogue.vectors)


def test_every_kind_of_query_is_there_to_measure_and_apart_to_tune_by(catalogue):
    kinds = ["user", *(f"cart {length}" for length in CART_LENGTHS)]
    assert list(catalogue.queries) == list(catalogue.tuning) == kinds
    for kind in kinds:
        assert len(catalogue.queries[kind])
        assert len(catalogue.tuning[kind])
        assert not np.array_equal(catalogue.queries[kind][0], catalogue.tuning[kind][0])
    assert all(len(cart) == CART_LENGTHS[-1] for cart in catalogue.carts)


def test_nearcart_keeps_its_promises_on_other_queries_and_is_complete_under_every_filter(catalogue):
    built = built_nearcart(catalogue.vectors, catalogue.tuning, K, (0.9, 1.0))
    assert set(built.chosen) == {0.9, 1.0}
    for queries in catalogue.queries.values():
        truth = exact(catalogue.vectors, queries, K)
        for promise, slack in ((0.9, 0.03), (1.0, 0.0)):
            ask = built.ask(K, {"promise": promise})
            assert truth.recalls([ask.one(query) for query in queries]).mean() >= promise - slack
            assert truth.recalls(ask.many(queries)).mean() >= promise - slack
    queries = catalogue.queries["cart 3"]
    for _, _, allowed in masks(catalogue.popularity):
        search = built.filtered(K, {"promise": 1.0}, allowed)
        truth = exact(catalogue.vectors, queries[:3], K, allowed)
        assert (truth.recalls([search(query) for query in queries[:3]]) == 1.0).all()


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_finds_more_with_its_last_setting_than_with_its_first_alone_and_in_batches(name, catalogue):
    rival = RIVALS[name]
    if not rival.is_installed:
        pytest.skip(f"{rival.package} is absent: python -m pip install --group bench")
    queries = catalogue.queries["user"][:20]
    truth = exact(catalogue.vectors, queries, K)
    for build in rival.builds(N):
        built = rival.build(catalogue.vectors, build)
        # Some libraries build at random and search batches otherwise than single queries: no exact numbers here.
        ask = built.ask(K, rival.settings(N)[0])
        first = truth.recalls([ask.one(query) for query in queries]).mean()
        ask = built.ask(K, rival.settings(N)[-1])
        last = truth.recalls([ask.one(query) for query in queries]).mean()
        assert last > 0.5
        assert last > first - 0.1
        assert truth.recalls(ask.many(queries)).mean() > 0.5
        assert built.size_bytes > catalogue.vectors.nbytes


@pytest.mark.parametrize("name", ["faiss-flat", "faiss-hnsw", "hnswlib"])
def test_a_rival_that_filters_returns_what_is_allowed(name, catalogue):
    rival = RIVALS[name]
    if not rival.is_installed:
        pytest.skip(f"{rival.package} is absent: python -m pip install --group bench")
    built = rival.build(catalogue.vectors, rival.builds(N)[0])
    allowed = np.arange(N) % 2 == 0
    for query in catalogue.queries["user"][:5]:
        rows = np.asarray(built.filtered(K, rival.settings(N)[-1], allowed)(query)).astype(np.int64)
        assert allowed[rows[rows >= 0]].all()
        assert (rows >= 0).any()


def test_many_vectors_get_one_build_of_each_library():
    assert len(RIVALS["hnswlib"].builds(10_000)) > 1
    assert len(RIVALS["hnswlib"].builds(search_seam._LARGE + 1)) == 1


def test_augmented_vectors_turn_inner_products_into_distances(catalogue):
    vectors, queries = augmented(catalogue.vectors), padded(catalogue.queries["user"][:3])
    norms = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    np.testing.assert_allclose(queries @ vectors.T, catalogue.queries["user"][:3] @ catalogue.vectors.T, rtol=1e-6)


def test_filters_allow_the_share_they_say_of_the_half_they_say(catalogue):
    popular = np.median(catalogue.popularity)
    for name, share, allowed in masks(catalogue.popularity):
        assert allowed.sum() == max(1, round(share * N))
        if name == "popular half":
            assert (catalogue.popularity[allowed] >= popular).all()
        if name == "unpopular half":
            assert (catalogue.popularity[allowed] <= popular).all()


def _entry(recalls, seconds, rival="some", **setting):
    built = Built(0, lambda k, setting: Ask(np.asarray, np.asarray))
    return Entry(rival, {}, setting, built, {}, {"single": np.array(recalls)}, {"single": [np.full(2, seconds)]})


def test_only_a_setting_that_another_of_its_library_beats_by_far_is_not_timed_again():
    mode = Mode("single", 0, np.empty((2, 1), dtype=np.float32), {"user": slice(0, 1), "cart 1": slice(1, 2)})
    best, beaten = _entry([0.9, 0.9], 1.0), _entry([0.9, 0.8], 2.0)
    kept = [
        _entry([0.9, 0.9], 1.1),
        _entry([0.8, 0.95], 5.0),
        _entry([0.5, 0.5], 9.0, "another"),
        _entry([0.5, 0.5], 9.0, promise=0.9),
    ]
    assert near_frontier([best, beaten, *kept], mode) == [best, *kept]


def _row(rival, setting, kind, recall_, us):
    return {
        "rival": rival, "build": "", "setting": setting, "kind": kind, "recall": recall_, "us": us, "p99_us": us,
    }  # fmt: skip


def test_a_table_takes_the_fastest_setting_whose_every_kind_of_query_finds_enough():
    rows = [
        _row("some", "fast", "cart 1", 0.99, 1.0),
        _row("some", "fast", "cart 3", 0.80, 1.0),
        _row("some", "slow", "cart 1", 0.95, 4.0),
        _row("some", "slow", "cart 3", 0.93, 6.0),
    ]
    assert recall_tables.groups(rows) == {"carts": ["cart 1", "cart 3"]}
    found = recall_tables.points(rows, ["cart 1", "cart 3"])
    best = recall_tables.fastest(found, "some", 0.9)
    assert (best.parameters, best.recall, best.us) == ("slow", 0.93, 5.0)
    assert recall_tables.fastest(found, "some", 0.95) is None
    assert [point.parameters for point in recall_tables.frontier(found)] == ["fast", "slow"]


def test_without_rivals_the_run_says_which_are_absent_and_measures_nearcart(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(search_seam.importlib.util, "find_spec", lambda name: None)
    paths = tmp_path / "rows.jsonl", tmp_path / "plot.png"
    monkeypatch.setattr(sys, "argv", ["recall", "--quick", "--json", str(paths[0]), "--plot", str(paths[1])])
    recall.main()
    assert "absent, so not compared: faiss-cpu, hnswlib, scann, usearch, voyager" in capsys.readouterr().out
    rows = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert {row["rival"] for row in rows if row["part"] == "search"} == {"nearcart"}
    assert {row["part"] for row in rows} == {"search", "filters", "carts"}
    assert all(row["short"] == 0 for row in rows if row["part"] == "filters")
    assert paths[1].stat().st_size


def test_every_rival_can_be_asked_for_by_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recall", "--rivals", "annoy"])
    with pytest.raises(SystemExit):
        recall.main()
    assert "found annoy" in capsys.readouterr().err
    assert set(search_rivals.RIVALS) >= {"faiss-flat", "faiss-hnsw", "hnswlib", "usearch", "voyager", "scann"}
