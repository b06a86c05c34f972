"""The index against brute force in float64: full answers, exact scores, ties to the smaller row."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import faiss
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import IndexUnsupported, ReleaseCorrupt
from engine.index import Index, IndexPlan, build_index, check_plan, measure_recall
from engine.scoring import score_rows

FLAT = IndexPlan("Flat")
APPROXIMATE = [
    IndexPlan("HNSW32", "efSearch=64"),
    IndexPlan("IVF16,Flat", "nprobe=4"),
    IndexPlan("SQ8"),
    IndexPlan("HNSW16,SQ8"),
    IndexPlan("HNSW4", "efSearch=2"),
]
PLANS = [FLAT, *APPROXIMATE]
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
    build_index(vectors, plan, path)
    return Index(path, vectors, plan, available)


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


@pytest.fixture(scope="module", params=PLANS, ids=lambda plan: plan.factory)
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
        if plan is FLAT:
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
            if plan is FLAT or len(rows) == allowed:
                assert rows.tolist() == by_brute_force(vectors, query, k, NOTHING, available)[0]
            assert (np.diff(scores) <= 0).all()


def test_a_batch_equals_its_singles_bit_for_bit(indexes):
    """They exclude lists of different lengths; what one asks for must not change another's answer."""
    _, opened = indexes
    generator = np.random.default_rng(3)
    queries = generator.normal(size=(60, FACTORS)).astype(np.float32)
    queries[30:] = some_queries(30)
    excluded = [
        np.sort(generator.choice(N, size, replace=False)).astype(np.int32) for size in (0, 1, 90, 100, 700, N) * 10
    ]
    for index, _ in opened.values():
        together = index.search(queries, 10, excluded)
        for query, rows, found in zip(queries, excluded, together, strict=True):
            alone = index.search(query[np.newaxis], 10, [rows])[0]
            assert found[0].tolist() == alone[0].tolist()
            assert found[1].tobytes() == alone[1].tobytes()


def test_a_batch_that_faiss_multiplies_as_matrices_equals_its_singles_bit_for_bit(tmp_path):
    """From 128,000 coordinates of queries on, a flat index goes to BLAS, whose scores differ in the last bits."""
    generator = np.random.default_rng(8)
    vectors = np.repeat(generator.normal(size=(240, 128)).astype(np.float32), 5, axis=0)
    queries = generator.normal(size=(1001, 128)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, FLAT)
    for query, found in list(zip(queries, index.search(queries, 12, [NOTHING] * 1001), strict=True))[::20]:
        rows, scores = index.search(query[np.newaxis], 12, [NOTHING])[0]
        assert found[0].tolist() == rows.tolist() == index.scan(query, 12, NOTHING)[0].tolist()
        assert found[1].tobytes() == scores.tobytes()


def test_a_neighbour_that_excludes_much_changes_no_other_answer_of_the_batch(tmp_path):
    """It makes the batch ask for more; of coarse proposals, asking for more finds other items."""
    generator = np.random.default_rng(9)
    vectors = generator.normal(size=(N, 16)).astype(np.float32)
    queries = generator.normal(size=(401, 16)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, IndexPlan("SQ4"))
    excluded = [NOTHING] * 400 + [np.arange(100, dtype=np.int32)]
    for query, found in list(zip(queries, index.search(queries, 10, excluded), strict=True))[:400]:
        assert found[0].tolist() == index.search(query[np.newaxis], 10, [NOTHING])[0][0].tolist()


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


def test_where_nothing_is_available_nothing_is_found(tmp_path):
    index = open_index(tmp_path / "i", some_vectors(), FLAT, np.zeros(N, dtype=bool))
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


@pytest.mark.parametrize("sold_out", [False, True])
@pytest.mark.parametrize("name", EDGES)
def test_an_exact_search_is_a_scan_to_the_last_bit_and_the_last_tie(tmp_path, name, sold_out, availability):
    """The kernel's scores are the definition here, since they are returned; equal ones fall to the smaller row."""
    vectors, available = edge_vectors(name), availability if sold_out else None
    index = open_index(tmp_path / "i", vectors, FLAT, available)
    excluded = np.array([0, 2, 17, 900], dtype=np.int32)
    for k in (1, 2, 10, 39, 40, 41):
        for query in edge_queries(name):
            rows, scores = index.search(query[np.newaxis], k, [excluded])[0]
            own = np.empty(N, dtype=np.float32)
            score_rows(vectors, np.arange(N, dtype=np.int32), query, own)
            allowed = np.ones(N, dtype=bool) if available is None else available.copy()
            allowed[excluded] = False
            expected = reference.best_rows(np.where(allowed, own, -np.inf), k)
            assert rows.tolist() == expected
            assert scores.tobytes() == own[expected].tobytes()


@pytest.mark.parametrize("name", EDGES)
def test_scores_are_those_of_float64_within_rounding(tmp_path, name):
    vectors = edge_vectors(name)
    index = open_index(tmp_path / "i", vectors, FLAT)
    for query in edge_queries(name):
        _, scores = index.search(query[np.newaxis], 10, [NOTHING])[0]
        _, expected = by_brute_force(vectors, query, 10)
        sizes = np.abs(vectors.astype(np.float64)) @ np.abs(query.astype(np.float64))
        np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6 * sizes.max() + 2.0**-140)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flat_search_is_brute_force_for_any_vectors_query_and_exclusions(tmp_path_factory, data):
    n = data.draw(st.integers(1, 400))
    factors = data.draw(st.integers(1, 5))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    width = data.draw(st.integers(0, 3))
    vectors = generator.integers(-width, width + 1, size=(n, factors)).astype(np.float32)
    queries = generator.integers(-2, 3, size=(data.draw(st.integers(1, 4)), factors)).astype(np.float32)
    available = generator.random(n) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    excluded = [
        np.sort(generator.choice(n, data.draw(st.integers(0, n)), replace=False)).astype(np.int32) for _ in queries
    ]
    k = data.draw(st.integers(0, 30))
    index = open_index(tmp_path_factory.getbasetemp() / "hypothesis.faiss", vectors, FLAT, available)
    for query, rows, found in zip(queries, excluded, index.search(queries, k, excluded), strict=True):
        expected_rows, expected_scores = by_brute_force(vectors, query, k, rows, available)
        assert found[0].tolist() == expected_rows
        assert found[1].tolist() == expected_scores.tolist()


# Recall.


def test_the_recall_of_an_exact_index_is_one(tmp_path):
    index = open_index(tmp_path / "i", some_vectors(), FLAT)
    assert measure_recall(index, some_queries(50), 20, [NOTHING] * 50).tolist() == [1.0] * 50


def test_the_recall_of_a_crippled_index_is_the_share_of_the_true_best_that_it_finds(tmp_path):
    generator = np.random.default_rng(7)
    vectors = generator.normal(size=(3000, FACTORS)).astype(np.float32)
    queries = generator.normal(size=(40, FACTORS)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, IndexPlan("IVF64,Flat", "nprobe=1"))
    recalls = measure_recall(index, queries, 20, [NOTHING] * 40)
    for query, recall in zip(queries, recalls, strict=True):
        found = index.search(query[np.newaxis], 20, [NOTHING])[0][0]
        assert recall == len(set(found.tolist()) & set(by_brute_force(vectors, query, 20)[0])) / 20
    assert 0 < recalls.mean() < 0.9
    wide = open_index(tmp_path / "j", vectors, IndexPlan("IVF64,Flat", "nprobe=64"))
    assert measure_recall(wide, queries, 20, [NOTHING] * 40).mean() == 1.0


def test_exclusions_do_not_cost_a_graph_the_recall_it_has_without_them(tmp_path):
    # FAISS keeps efSearch candidates, however many are asked for: of 24, with the 16 best excluded, exactly the 8 worst
    # were left, which is enough not to scan and a recall of .76 instead of .88.
    generator = np.random.default_rng(8)
    vectors = generator.normal(size=(6000, 64)).astype(np.float32)
    queries = generator.normal(size=(40, 64)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, IndexPlan("HNSW32", "efSearch=24"))
    best = [index.scan(query, 16, NOTHING)[0] for query in queries]
    without = measure_recall(index, queries, 8, [NOTHING] * 40).mean()
    assert measure_recall(index, queries, 8, best).mean() >= without


class LargestTies:
    """An index that finds scores as good as the best, at the larger rows."""

    def search(self, queries, k, excluded):
        return [(np.arange(9, 9 - k, -1), np.ones(k, dtype=np.float32)) for _ in queries]

    def scan(self, query, k, excluded):
        return np.arange(k), np.ones(k, dtype=np.float32)


def test_a_tie_at_the_last_place_counts_as_found():
    """Recall by id would call this 0, though the answer is as good as the true one."""
    assert measure_recall(LargestTies(), some_queries(2), 4, [NOTHING] * 2).tolist() == [1.0, 1.0]


# What FAISS cannot do, and what it must not be trusted with.


@pytest.mark.parametrize(
    "plan",
    [
        IndexPlan("nonsense"),
        IndexPlan(""),
        IndexPlan("IDMap,Flat"),
        IndexPlan("IVF5000,Flat"),
        IndexPlan("LSH"),
        IndexPlan("Flat", "nprobe=4"),
        IndexPlan("HNSW32", "efsearch=4"),
        IndexPlan("IVF16,Flat", "nprobe=many"),
    ],
    ids=str,
)
def test_a_plan_that_faiss_cannot_build_is_unsupported(tmp_path, plan):
    with pytest.raises(IndexUnsupported, match=r"could not build the index .* Name another factory string") as refused:
        build_index(some_vectors(), plan, tmp_path / "i")
    assert "/project/" not in str(refused.value)
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("factory", ["NSG16", "PCA4,IVF16,Flat", "SQ8,RFlat"])
def test_an_index_that_cannot_leave_out_sold_out_items_is_unsupported_where_there_are_some(
    tmp_path, factory, availability
):
    plan = IndexPlan(factory)
    index = open_index(tmp_path / "i", some_vectors(), plan)
    assert len(index.search(some_queries(1), 10, [NOTHING])[0][0]) == 10
    with pytest.raises(IndexUnsupported, match="cannot leave out unavailable items"):
        Index(tmp_path / "i", some_vectors(), plan, availability)


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_a_cut_index_is_corrupt(tmp_path, kept):
    build_index(some_vectors(), FLAT, tmp_path / "i")
    content = (tmp_path / "i").read_bytes()
    (tmp_path / "i").write_bytes(content[:kept])
    with pytest.raises(ReleaseCorrupt, match="FAISS cannot read the index"):
        Index(tmp_path / "i", some_vectors(), FLAT)


@pytest.mark.parametrize("shape", [(N - 1, FACTORS), (N, FACTORS - 1)])
def test_an_index_of_other_vectors_is_corrupt(tmp_path, shape):
    build_index(some_vectors(*shape), FLAT, tmp_path / "i")
    with pytest.raises(ReleaseCorrupt, match="but the release has 1,200 of 7"):
        Index(tmp_path / "i", some_vectors(), FLAT)


def test_the_file_is_what_faiss_itself_would_write(tmp_path):
    build_index(some_vectors(), IndexPlan("HNSW32"), tmp_path / "ours")
    faiss.write_index(faiss.read_index(str(tmp_path / "ours")), str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("n", [30, 5000])
def test_a_disk_without_room_for_the_index_is_an_error_however_small_the_index(n):
    """FAISS's own writer only prints when closing the file fails, which is where a small file meets a full disk."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full, a device without room")
    with pytest.raises(OSError, match="No space left on device"):
        build_index(some_vectors(n), FLAT, full)


def test_a_block_of_the_index_that_could_not_be_written_is_an_error_even_if_the_others_could(monkeypatch):
    class FullOnce(io.BytesIO):
        full = True

        def write(self, data):
            if self.full:
                self.full = False
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda *_: FullOnce())
    with pytest.raises(OSError, match="No space left on device"):
        build_index(some_vectors(), FLAT, Path("i"))


def test_search_parameters_that_find_nothing_are_refused_when_opening(tmp_path):
    with pytest.raises(IndexUnsupported, match="nprobe=0"):
        open_index(tmp_path / "i", some_vectors(), IndexPlan("IVF16,Flat", "nprobe=0"))


@pytest.mark.parametrize("factory", ["HNSW0", "HNSW1", "IVF16_HNSW1,Flat"])
def test_graphs_that_crash_faiss_are_refused(factory):
    with pytest.raises(IndexUnsupported, match="2 links"):
        check_plan(IndexPlan(factory), 8)


def test_one_long_exclusion_does_not_make_its_batch_ask_for_as_much(tmp_path, monkeypatch):
    generator = np.random.default_rng(9)
    vectors = generator.normal(size=(20_000, 4)).astype(np.float32)
    index = open_index(tmp_path / "i", vectors, FLAT)
    asked = []
    propose = Index._propose
    monkeypatch.setattr(Index, "_propose", lambda self, q, k: asked.append((len(q), k)) or propose(self, q, k))
    excluded = [NOTHING] * 9 + [np.arange(250, dtype=np.int32)]
    index.search(generator.normal(size=(10, 4)).astype(np.float32), 5, excluded)
    assert [n for n, _ in asked] == [9, 1]
    assert asked[0][1] < 50 < asked[1][1]
