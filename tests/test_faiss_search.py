"""FAISS behind its door: what it cannot do, and what it must not be trusted with. Answers: tests/test_index.py."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import faiss
import numpy as np
import pytest

from engine.errors import IndexUnsupported, ReleaseCorrupt
from engine.faiss_search import FaissSearch, build_faiss, check_faiss_plan
from engine.plan import IndexPlan

PLAN = IndexPlan("HNSW8")
NOTHING = np.empty(0, dtype=np.int32)
N, FACTORS = 1200, 7


def some_vectors(n=N, factors=FACTORS):
    return np.random.default_rng(0).normal(size=(n, factors)).astype(np.float32)


def opened(path, vectors, plan, available=None):
    build_faiss(vectors, plan, path)
    return FaissSearch(path, vectors, plan, available)


@pytest.mark.parametrize(
    "plan",
    [
        IndexPlan("nonsense"),
        IndexPlan(""),
        IndexPlan("IDMap,Flat"),
        IndexPlan("IVF5000,Flat"),
        IndexPlan("LSH"),
        IndexPlan("HNSW8", "nprobe=4"),
        IndexPlan("HNSW32", "efsearch=4"),
        IndexPlan("IVF16,Flat", "nprobe=many"),
    ],
    ids=str,
)
def test_a_plan_that_faiss_cannot_build_is_unsupported(tmp_path, plan):
    with pytest.raises(IndexUnsupported, match=r"could not build the index .* Name another factory string") as refused:
        build_faiss(some_vectors(), plan, tmp_path / "i")
    assert "/project/" not in str(refused.value)
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize("factory", ["NSG16", "PCA4,IVF16,Flat", "SQ8,RFlat"])
def test_an_index_that_cannot_leave_out_sold_out_items_is_unsupported_where_there_are_some(tmp_path, factory):
    plan = IndexPlan(factory)
    index = opened(tmp_path / "i", some_vectors(), plan)
    assert len(index.search(some_vectors(1)[0], 1, NOTHING)[0]) == 1
    with pytest.raises(IndexUnsupported, match="cannot leave out unavailable items"):
        FaissSearch(tmp_path / "i", some_vectors(), plan, np.arange(N) % 5 > 0)


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_a_cut_index_is_corrupt(tmp_path, kept):
    build_faiss(some_vectors(), PLAN, tmp_path / "i")
    content = (tmp_path / "i").read_bytes()
    (tmp_path / "i").write_bytes(content[:kept])
    with pytest.raises(ReleaseCorrupt, match="FAISS cannot read the index"):
        FaissSearch(tmp_path / "i", some_vectors(), PLAN, None)


@pytest.mark.parametrize("shape", [(N - 1, FACTORS), (N, FACTORS - 1)])
def test_an_index_of_other_vectors_is_corrupt(tmp_path, shape):
    build_faiss(some_vectors(*shape), PLAN, tmp_path / "i")
    with pytest.raises(ReleaseCorrupt, match="but the release has 1,200 of 7"):
        FaissSearch(tmp_path / "i", some_vectors(), PLAN, None)


def test_the_file_is_what_faiss_itself_would_write(tmp_path):
    build_faiss(some_vectors(), IndexPlan("HNSW32"), tmp_path / "ours")
    faiss.write_index(faiss.read_index(str(tmp_path / "ours")), str(tmp_path / "theirs"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("n", [30, 5000])
def test_a_disk_without_room_for_the_index_is_an_error_however_small_the_index(n):
    """FAISS's own writer only prints when closing the file fails, which is where a small file meets a full disk."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full, a device without room")
    with pytest.raises(OSError, match="No space left on device"):
        build_faiss(some_vectors(n), PLAN, full)


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
        build_faiss(some_vectors(), PLAN, Path("i"))


def test_search_parameters_that_find_nothing_are_refused_when_opening(tmp_path):
    with pytest.raises(IndexUnsupported, match="nprobe=0"):
        opened(tmp_path / "i", some_vectors(), IndexPlan("IVF16,Flat", "nprobe=0"))


@pytest.mark.parametrize("factory", ["HNSW0", "HNSW1", "IVF16_HNSW1,Flat"])
def test_graphs_that_crash_faiss_are_refused(factory):
    with pytest.raises(IndexUnsupported, match="2 links"):
        check_faiss_plan(IndexPlan(factory), 8)


def test_asking_for_more_candidates_than_wanted_mends_what_compression_loses(tmp_path):
    generator = np.random.default_rng(9)
    vectors = generator.normal(size=(20_000, 16)).astype(np.float32)
    queries = generator.normal(size=(40, 16)).astype(np.float32)
    found = []
    for rerank in (1, 8):
        index = opened(tmp_path / "i", vectors, IndexPlan("IVF16,PQ8x4fs", f"nprobe=16,rerank={rerank}"))
        rows = [index.search(query, 10, NOTHING)[0] for query in queries]
        best = [np.argsort(-(vectors @ query))[:10] for query in queries]
        found.append(np.mean([len(set(mine) & set(theirs)) / 10 for mine, theirs in zip(rows, best, strict=True)]))
    assert found[0] < 0.9 < found[1]
