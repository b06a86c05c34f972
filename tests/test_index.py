"""The index against brute force in float64: full answers, exact scores, ties to the smaller row."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import IndexUnsupported
from engine.index import APPROXIMATE_FILES, Index, add_index, discard_approximate, recalls
from engine.plan import PRUNED, QUANTIZED, IndexPlan
from engine.release import Draft
from engine.scoring import best_of_rows, score_rows
from engine.vector_formats import FORMATS
from engine.vector_table import NO_SCALES, VectorTable, packed

EXACT = IndexPlan(PRUNED, matrix_queries=16)
APPROXIMATE = [
    IndexPlan("Quantized1", "deviations=-1,reach=0.8", 16),
    IndexPlan("Quantized2", "", 16),
    IndexPlan("HNSW32", "efSearch=64", 16),
    IndexPlan("IVF16,Flat", "nprobe=4", 16),
    IndexPlan("SQ8", matrix_queries=16),
    IndexPlan("IVF16,PQ7x4fs", "nprobe=8,rerank=4", 16),
    IndexPlan("HNSW16,SQ8", matrix_queries=16),
    IndexPlan("HNSW4", "efSearch=2", 16),
]
PLANS = [EXACT, *APPROXIMATE]
NOTHING = np.empty(0, dtype=np.int32)
N, FACTORS = 1200, 7


def some_vectors(n=N, factors=FACTORS, seed=0):
    """Integer coordinates, so that float32 scores are exact and equal scores are many; copies and zeros among them."""
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-4, 5, size=(n, factors)).astype(np.float32)
    vectors[5::13] = vectors[5]
    vectors[7::17] = 0
    return vectors


def some_queries(n, factors=FACTORS, seed=1):
    return np.random.default_rng(seed).integers(-3, 4, size=(n, factors)).astype(np.float32)


def open_index(path, vectors, plan, available=None):
    """An index in the draft of a release that is never published."""
    draft = Draft(path.parent, path.name).__enter__()
    add_index(draft, vectors, plan)
    return Index(draft, vectors, plan, available)


def scanned(vectors, query, k):
    return best_of_rows(vectors, np.arange(len(vectors), dtype=np.int32), query, k)


def by_brute_force(vectors, query, k, excluded=NOTHING, available=None):
    """Rows and scores by the definition: float64, every row."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    scores[excluded] = -np.inf
    if available is not None:
        scores[~available] = -np.inf
    rows = reference.best_rows(scores, k)
    return rows, scores[rows]


@pytest.fixture(scope="module")
def availability():
    return np.random.default_rng(2).random(N) < 0.8


@pytest.fixture(scope="module", params=PLANS, ids=str)
def indexes(request, tmp_path_factory, availability):
    """One plan's index, with all items available and with some sold out."""
    directory = tmp_path_factory.mktemp("index")
    return request.param, {
        "all": (open_index(directory / "all", some_vectors(), request.param), None),
        "some": (open_index(directory / "some", some_vectors(), request.param, availability), availability),
    }


# How many answers, and which.


EXCLUSIONS = {
    "none": NOTHING,
    "one": np.array([5], dtype=np.int32),
    "few": np.arange(0, N, 97, dtype=np.int32),
    "as many as FAISS may propose": np.arange(N // 8 - 26, dtype=np.int32),
    "one more than that": np.arange(N // 8 - 25, dtype=np.int32),
    "half": np.arange(0, N, 2, dtype=np.int32),
    "all but three": np.setdiff1d(np.arange(N, dtype=np.int32), [3, 700, 1100]).astype(np.int32),
    "all": np.arange(N, dtype=np.int32),
}


@pytest.mark.parametrize("which", ["all", "some"])
@pytest.mark.parametrize("name", EXCLUSIONS)
def test_an_answer_is_full_allowed_scored_and_in_order_whatever_is_excluded(indexes, name, which):
    plan, opened = indexes
    index, available = opened[which]
    vectors, excluded = some_vectors(), EXCLUSIONS[name]
    allowed = np.ones(N, dtype=bool) if available is None else available.copy()
    allowed[excluded] = False
    for query in some_queries(20):
        rows, scores = index.search(query[np.newaxis], 10, [excluded])[0]
        assert len(rows) == len(scores) == min(10, allowed.sum())
        assert len(set(rows.tolist())) == len(rows)
        assert allowed[rows].all()
        np.testing.assert_array_equal(scores, vectors[rows] @ query)
        assert rows.tolist() == rows[np.lexsort((rows, -scores))].tolist()
        if plan == EXACT:
            expected_rows, expected_scores = by_brute_force(vectors, query, 10, excluded, available)
            assert rows.tolist() == expected_rows
            assert scores.tolist() == expected_scores.tolist()


@pytest.mark.parametrize("k", [0, 1, 2, 9, 133, 134, 135, N - 1, N, N + 1, 5 * N])
def test_any_number_can_be_asked_for(indexes, k):
    plan, opened = indexes
    vectors = some_vectors()
    for index, available in opened.values():
        allowed = N if available is None else int(available.sum())
        for query in some_queries(3, seed=k):
            rows, scores = index.search(query[np.newaxis], k, [NOTHING])[0]
            assert len(rows) == min(k, allowed)
            if plan == EXACT or len(rows) == allowed:
                assert rows.tolist() == by_brute_force(vectors, query, k, NOTHING, available)[0]
            assert (np.diff(scores) <= 0).all()


def test_a_batch_is_exact_and_equals_exact_singles_bit_for_bit(indexes):
    """They exclude lists of different lengths; what one asks for must not change another's answer."""
    plan, opened = indexes
    generator = np.random.default_rng(3)
    queries = generator.normal(size=(60, FACTORS)).astype(np.float32)
    queries[30:] = some_queries(30)
    excluded = [
        np.sort(generator.choice(N, size, replace=False)).astype(np.int32) for size in (0, 1, 90, 100, 700, N) * 10
    ]
    for index, _ in opened.values():
        together = index.search(queries, 10, excluded)
        for query, rows, found in zip(queries, excluded, together, strict=True):
            for ask in (index.exact, index.search) if plan == EXACT else (index.exact,):
                alone = ask(query[np.newaxis], 10, [rows])[0]
                assert found[0].tolist() == alone[0].tolist()
                assert found[1].tobytes() == alone[1].tobytes()


def test_a_batch_that_is_multiplied_as_matrices_equals_its_singles_bit_for_bit(tmp_path):
    """BLAS's scores differ in the last bits"""
    generator = np.random.default_rng(8)
    vectors = np.repeat(generator.normal(size=(240, 128)).astype(np.float32), 5, axis=0)
    queries = generator.normal(size=(1001, 128)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, EXACT)
    for query, found in list(zip(queries, index.search(queries, 12, [NOTHING] * 1001), strict=True))[::20]:
        rows, scores = index.search(query[np.newaxis], 12, [NOTHING])[0]
        assert found[0].tolist() == rows.tolist() == scanned(vectors, query, 12)[0].tolist()
        assert found[1].tobytes() == scores.tobytes()


def test_a_few_queries_of_an_approximate_plan_are_answered_each_as_if_alone(tmp_path):
    """One excludes much and so asks for more; of coarse proposals, asking for more finds other items."""
    generator = np.random.default_rng(9)
    vectors = generator.normal(size=(12_000, 16)).astype(np.float32)
    queries = generator.normal(size=(15, 16)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, IndexPlan("SQ4", matrix_queries=16))
    excluded = [NOTHING] * 14 + [np.arange(100, dtype=np.int32)]
    for query, rows, found in zip(queries, excluded, index.search(queries, 10, excluded), strict=True):
        assert found[0].tolist() == index.search(query[np.newaxis], 10, [rows])[0][0].tolist()


def test_an_empty_batch_is_answered_with_nothing(indexes):
    _, opened = indexes
    assert opened["all"][0].search(np.empty((0, FACTORS), dtype=np.float32), 10, []) == []


@pytest.mark.parametrize("which", ["all", "some"])
def test_the_best_of_some_rows_are_ranked_as_in_a_search(indexes, which):
    _, opened = indexes
    index, available = opened[which]
    rows = np.random.default_rng(4).permutation(N)[:40].astype(np.int32)
    others = np.setdiff1d(np.arange(N), rows)
    for query in some_queries(5):
        found, scores = index.best_of(query, 10, rows)
        expected_rows, expected_scores = by_brute_force(some_vectors(), query, 10, others, available)
        assert found.tolist() == expected_rows
        assert scores.tolist() == expected_scores.tolist()


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_where_nothing_is_available_nothing_is_found(tmp_path, plan):
    index = open_index(tmp_path / "i", some_vectors(), plan, np.zeros(N, dtype=bool))
    assert index.n_available == 0
    assert len(index.search(some_queries(1), 10, [NOTHING])[0][0]) == 0


# Ties and numbers at the edge, where an exact index must not trust FAISS's order or its last bits.


EDGE_FACTORS = 40
"""Long enough for FAISS and our own kernel to add up in different orders."""
EDGES = {
    "ordinary": (1, 1),
    "copies": (1, 1),
    "all zero": (1, 1),
    "all the same": (1, 1),
    "negative scores only": (1, 1),
    "one giant": (1, 1),
    "alike but for the last bits": (1, 1),
    "alike and giant": (1e25, 1),
    "alike and tiny": (1e-25, 1),
    "alike and asked for by something tiny": (1, 1e-25),
    "alike and both tiny": (1e-15, 1e-15),
    "alike and too small to be normal": (1e-20, 2e-23),
}
"""By what the vectors and the queries are multiplied."""


def edge_vectors(name):
    generator = np.random.default_rng(5)
    vectors = generator.normal(size=(N, EDGE_FACTORS)).astype(np.float32)
    if name == "copies":
        vectors = np.repeat(vectors[:30], N // 30, axis=0)
    elif name == "all zero":
        vectors[:] = 0
    elif name == "all the same":
        vectors[:] = vectors[0]
    elif name == "negative scores only":
        vectors = -np.abs(vectors)
    elif name == "one giant":
        vectors[17] *= 1e25
    elif name.startswith("alike"):
        vectors = (vectors[0] * (1 + generator.integers(-1, 2, size=vectors.shape) * 2.0**-23)).astype(np.float32)
    return vectors * np.float32(EDGES[name][0])


def edge_queries(name):
    queries = np.random.default_rng(6).normal(size=(12, EDGE_FACTORS)).astype(np.float32)
    queries[-1] = 0
    return (np.abs(queries) if name == "negative scores only" else queries) * np.float32(EDGES[name][1])


@pytest.mark.parametrize("vector_format", FORMATS)
@pytest.mark.parametrize("sold_out", [False, True])
@pytest.mark.parametrize("name", EDGES)
def test_an_exact_search_is_a_scan_to_the_last_bit_and_the_last_tie(
    tmp_path, name, sold_out, availability, vector_format
):
    """The kernel's scores are the definition here, since they are returned; equal ones fall to the smaller row."""
    vectors, available = packed(edge_vectors(name), vector_format), availability if sold_out else None
    index = open_index(tmp_path / "i", vectors, EXACT, available)
    excluded = np.array([0, 2, 17, 900], dtype=np.int32)
    for k in (1, 2, 10, 39, 40, 41):
        queries = np.concatenate([edge_queries(name)] * 2)
        together = index.search(queries, k, [excluded] * len(queries))
        for query, batched in zip(edge_queries(name), together, strict=False):
            rows, scores = index.search(query[np.newaxis], k, [excluded])[0]
            assert batched[0].tolist() == rows.tolist()
            assert batched[1].tobytes() == scores.tobytes()
            own = np.empty(N, dtype=np.float32)
            score_rows(vectors.codes, vectors.scales, np.arange(N, dtype=np.int32), query, own)
            allowed = np.ones(N, dtype=bool) if available is None else available.copy()
            allowed[excluded] = False
            expected = reference.best_rows(np.where(allowed, own, -np.inf), k)
            assert rows.tolist() == expected
            assert scores.tolist() == own[expected].tolist()


@pytest.mark.parametrize("vector_format", FORMATS)
@pytest.mark.parametrize("name", EDGES)
def test_scores_are_those_of_float64_within_rounding(tmp_path, name, vector_format):
    table = packed(edge_vectors(name), vector_format)
    index, vectors = open_index(tmp_path / "i", table, EXACT), table[:]
    for query in edge_queries(name):
        _, scores = index.search(query[np.newaxis], 10, [NOTHING])[0]
        _, expected = by_brute_force(vectors, query, 10)
        sizes = np.abs(vectors.astype(np.float64)) @ np.abs(query.astype(np.float64))
        np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6 * sizes.max() + 2.0**-140)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_exact_search_is_brute_force_for_any_vectors_query_and_exclusions(tmp_path_factory, data):
    n = data.draw(st.integers(1, 400))
    factors = data.draw(st.sampled_from([1, 2, 5, 8, 9, 17]))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    width = data.draw(st.integers(0, 3))
    vectors = generator.integers(-width, width + 1, size=(n, factors)).astype(np.float32)
    queries = generator.integers(-2, 3, size=(data.draw(st.sampled_from([1, 4, 20])), factors)).astype(np.float32)
    available = generator.random(n) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    excluded = [
        np.sort(generator.choice(n, data.draw(st.integers(0, n)), replace=False)).astype(np.int32) for _ in queries
    ]
    k = data.draw(st.integers(0, 30))
    index = open_index(tmp_path_factory.mktemp("drawn") / "i", vectors, EXACT, available)
    for query, rows, found in zip(queries, excluded, index.search(queries, k, excluded), strict=True):
        expected_rows, expected_scores = by_brute_force(vectors, query, k, rows, available)
        assert found[0].tolist() == expected_rows
        assert found[1].tolist() == expected_scores.tolist()


# Recall.


def test_the_recall_of_an_exact_index_is_one(tmp_path):
    index = open_index(tmp_path / "i", some_vectors(), EXACT)
    assert recalls(index, some_queries(50), 20, [NOTHING] * 50).tolist() == [1.0] * 50


def test_the_recall_of_a_crippled_index_is_the_share_of_the_true_best_that_it_finds(tmp_path):
    generator = np.random.default_rng(7)
    vectors = generator.normal(size=(3000, FACTORS)).astype(np.float32)
    queries = generator.normal(size=(40, FACTORS)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, IndexPlan("IVF64,Flat", "nprobe=1"))
    measured = recalls(index, queries, 20, [NOTHING] * 40)
    for query, recall in zip(queries, measured, strict=True):
        found = index.search(query[np.newaxis], 20, [NOTHING])[0][0]
        assert recall == len(set(found.tolist()) & set(by_brute_force(vectors, query, 20)[0])) / 20
    assert 0 < measured.mean() < 0.9
    wide = open_index(tmp_path / "j", vectors, IndexPlan("IVF64,Flat", "nprobe=64"))
    assert recalls(wide, queries, 20, [NOTHING] * 40).mean() == 1.0


def test_exclusions_do_not_cost_a_graph_the_recall_it_has_without_them(tmp_path):
    # FAISS keeps efSearch candidates, however many are asked for: of 24, with the 16 best excluded, exactly the 8 worst
    # were left, which is enough not to scan and a recall of .76 instead of .88.
    generator = np.random.default_rng(8)
    vectors = generator.normal(size=(6000, 64)).astype(np.float32)
    queries = generator.normal(size=(40, 64)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, IndexPlan("HNSW32", "efSearch=24"))
    best = [np.sort(rows) for rows, _ in index.exact(queries, 16, [NOTHING] * 40)]
    without = recalls(index, queries, 8, [NOTHING] * 40).mean()
    assert recalls(index, queries, 8, best).mean() >= without


class LargestTies:
    """An index that finds scores as good as the best, at the larger rows."""

    def search(self, queries, k, excluded):
        return [(np.arange(9, 9 - k, -1), np.ones(k, dtype=np.float32)) for _ in queries]

    def exact(self, queries, k, excluded):
        return [(np.arange(k), np.ones(k, dtype=np.float32)) for _ in queries]


def test_a_tie_at_the_last_place_counts_as_found():
    """Recall by id would call this 0, though the answer is as good as the true one."""
    assert recalls(LargestTies(), some_queries(2), 4, [NOTHING] * 2).tolist() == [1.0, 1.0]


# What may be asked for.


@pytest.mark.parametrize("which", ["all", "some"])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 0.1, 0.9, 1.0])
def test_a_filter_is_answered_exactly_and_in_full_by_every_plan(indexes, which, share):
    _, opened = indexes
    index, available = opened[which]
    allowed = np.random.default_rng(10).random(N) < share
    excluded = np.arange(0, N, 3, dtype=np.int32)
    shown = allowed if available is None else allowed & available
    queries = some_queries(20)
    found = index.search(queries, 10, [excluded] * 20, allowed)
    for query, (rows, scores) in zip(queries, found, strict=True):
        assert len(rows) == min(10, np.count_nonzero(np.delete(shown, excluded)))
        assert rows.tolist() == by_brute_force(some_vectors(), query, 10, excluded, shown)[0]
        alone = index.search(query[np.newaxis], 10, [excluded], allowed)[0]
        assert alone[0].tolist() == rows.tolist()
        assert alone[1].tobytes() == scores.tobytes()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("vector_format", ["int16", "int8"])
def test_rows_whose_scores_differ_by_less_than_the_rounding_are_found_as_a_scan_finds_them(
    tmp_path, vector_format, seed
):
    """All rows are one row, but for a scale that is off by an ulp and codes that nearly cancel: bounds have no slack
    but what they allow for rounding."""
    generator = np.random.default_rng(seed)
    factors, most = int(generator.choice([8, 64, 300])), np.iinfo(vector_format).max
    codes = np.repeat(generator.integers(-most, most + 1, size=(1, factors)), N, axis=0)
    codes += generator.integers(-1, 2, size=codes.shape) * (generator.random((N, 1)) < 0.3)
    scales = (np.float32(0.01) * (1 + generator.integers(-2, 3, size=N) * 2.0**-23)).astype(np.float32)
    table = VectorTable(np.clip(codes, -most, most).astype(vector_format), scales)
    index = open_index(tmp_path / "i", table, EXACT)
    queries = np.concatenate([table[:8], generator.normal(size=(8, factors)).astype(np.float32)])
    for query, many in zip(queries, index.search(queries, 20, [NOTHING] * 16), strict=True):
        expected = scanned(table, query, 20)
        for rows, scores in (many, index.search(query[np.newaxis], 20, [NOTHING])[0]):
            assert rows.tolist() == expected[0].tolist()
            assert scores.tobytes() == expected[1].tobytes()


@pytest.mark.parametrize("vector_format", ["int16", "int8"])
@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.factory not in ("HNSW4",)], ids=str)
def test_every_plan_answers_over_packed_vectors_with_their_exact_scores(tmp_path, plan, vector_format, monkeypatch):
    monkeypatch.setattr("engine.faiss_search._ADDED_AT_ONCE", 500)
    monkeypatch.setattr("engine.faiss_search._MOST_TRAINED", 900)
    generator = np.random.default_rng(13)
    table = packed(generator.normal(size=(6000, FACTORS)).astype(np.float32), vector_format)
    queries = generator.normal(size=(30, FACTORS)).astype(np.float32)
    index = open_index(tmp_path / "i", table, plan)
    assert recalls(index, queries, 10, [NOTHING] * 30).mean() > 0.5
    for query in queries:
        rows, scores = index.search(query[np.newaxis], 10, [NOTHING])[0]
        own = np.empty(10, dtype=np.float32)
        score_rows(table.codes, table.scales, rows, query, own)
        assert scores.tobytes() == own.tobytes()


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_sixteen_queries_at_once_are_answered_exactly_by_every_plan(tmp_path, plan):
    generator = np.random.default_rng(12)
    vectors = generator.normal(size=(3000, FACTORS)).astype(np.float32)
    queries = generator.normal(size=(16, FACTORS)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, plan)
    for query, (rows, scores) in zip(queries, index.search(queries, 10, [NOTHING] * 16), strict=True):
        expected = scanned(vectors, query, 10)
        assert rows.tolist() == expected[0].tolist()
        assert scores.tobytes() == expected[1].tobytes()


@pytest.mark.parametrize(
    ("factory", "parameters", "message"),
    [
        (PRUNED, "reach=1", "it is exact: expected none"),
        ("Flat", "nprobe=1", "it is exact: expected none"),
        ("Quantized1", "deviations=9", "expected deviations from -8 to 8"),
        ("Quantized1", "deviations=nan", "expected deviations from -8 to 8"),
        ("Quantized2", "reach=", "expected reach from 0 to 1"),
        ("Quantized2", "reach=1.1", "expected reach from 0 to 1"),
        ("Quantized2", "reach=1,reach=1", "expected deviations=D, reach=R or both"),
        ("Quantized2", "efSearch=64", "expected deviations=D, reach=R or both"),
    ],
)
def test_search_parameters_that_an_index_of_ours_does_not_have_are_refused(tmp_path, factory, parameters, message):
    with pytest.raises(IndexUnsupported, match=message):
        open_index(tmp_path / "i", some_vectors(), IndexPlan(factory, parameters))


@pytest.mark.parametrize("factory", QUANTIZED)
def test_fewer_deviations_find_less_and_scores_are_exact_all_the_same(tmp_path, factory):
    generator = np.random.default_rng(11)
    vectors = (generator.normal(size=(20_000, 32)) * generator.lognormal(sigma=0.5, size=(20_000, 1))).astype(
        np.float32
    )
    queries = generator.normal(size=(100, 32)).astype(np.float32)
    found = []
    for deviations in (-2, 0, 8):
        index = open_index(tmp_path / f"i{deviations}", vectors, IndexPlan(factory, f"deviations={deviations}"))
        found.append(recalls(index, queries, 20, [NOTHING] * 100).mean())
        rows, scores = index.search(queries[:1], 20, [NOTHING])[0]
        own = np.empty(20, dtype=np.float32)
        score_rows(vectors, NO_SCALES, rows, queries[0], own)
        assert scores.tobytes() == own.tobytes()
    assert found[0] < found[1] < found[2] == 1.0


def test_known_exact_answers_give_the_same_recalls(tmp_path):
    vectors, queries = some_vectors(seed=4), some_queries(30)
    index = open_index(tmp_path / "i", vectors, IndexPlan("Quantized1", "deviations=-1"))
    best = index.exact(queries, 10, [NOTHING] * 30)
    known = recalls(index, queries, 10, [NOTHING] * 30, best)
    assert known.tolist() == recalls(index, queries, 10, [NOTHING] * 30).tolist()
    assert 0 < known.mean() < 1


def test_what_answers_approximately_can_be_taken_back_and_another_be_built(tmp_path):
    vectors, draft = some_vectors(), Draft(tmp_path, "r").__enter__()
    for plan in (IndexPlan("Quantized1"), IndexPlan("HNSW8"), IndexPlan("Quantized2")):
        add_index(draft, vectors, plan)
        assert draft.size_bytes(*APPROXIMATE_FILES) > 0
        assert len(Index(draft, vectors, plan).search(some_queries(1), 10, [NOTHING])[0][0]) == 10
        discard_approximate(draft)
        assert draft.size_bytes(*APPROXIMATE_FILES) == 0
        assert [path.name for path in draft.directory.iterdir()] == ["index"]
    assert len(Index(draft, vectors, IndexPlan()).search(some_queries(1), 10, [NOTHING])[0][0]) == 10
