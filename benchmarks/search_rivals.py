"""What benchmarks.recall compares Nearcart with: FAISS, hnswlib, usearch, voyager and ScaNN, behind one seam.

Heavy modules are imported by the rival that needs them. Their parameters are the libraries' own words for the same
things, renamed to one: M (links of a vector), ef (candidates while a graph is searched).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_faiss import FAISS
from benchmarks.search_seam import (
    EF_CONSTRUCTION,
    EFS,
    Ask,
    Built,
    Grids,
    Parameters,
    Rival,
    Vectors,
    augmented,
    padded,
    some_lists,
)


def _hnswlib(vectors: Vectors, parameters: Parameters) -> Built:
    import hnswlib

    is_augmented = bool(parameters.get("augmented"))
    data = augmented(vectors) if is_augmented else vectors
    index = hnswlib.Index(space="l2" if is_augmented else "ip", dim=data.shape[1])
    index.init_index(max_elements=len(data), M=parameters["M"], ef_construction=EF_CONSTRUCTION, random_seed=1)
    index.add_items(data, num_threads=os.cpu_count() or 1)
    index.set_num_threads(1)

    def search(queries: Vectors, k: int, **more: Any) -> Any:
        if is_augmented:
            queries = padded(queries)
        try:
            return index.knn_query(queries, k=k, num_threads=1, **more)[0]
        except RuntimeError:  # fewer than k were found for one of them: there is no answer for any
            return np.full((len(queries), k), -1)

    def ask(k: int, setting: Parameters) -> Ask:
        index.set_ef(setting["ef"])
        return Ask(lambda query: search(query[np.newaxis], k)[0], lambda queries: search(queries, k))

    def filtered(k: int, setting: Parameters, allowed: NDArray[np.bool_]) -> Callable[[Vectors], Any]:
        index.set_ef(setting["ef"])
        passes = allowed.tolist().__getitem__
        return lambda query: search(query[np.newaxis], k, filter=passes)[0]

    return Built(index.index_file_size(), ask, filtered)


def _usearch(vectors: Vectors, parameters: Parameters) -> Built:
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=parameters["M"], expansion_add=EF_CONSTRUCTION
    )
    index.add(np.arange(len(vectors)), vectors, threads=os.cpu_count() or 1)

    def many(queries: Vectors, k: int) -> NDArray[np.int64]:
        found = index.search(queries, k, threads=1)
        rows = found.keys.astype(np.int64)
        rows[np.arange(k) >= found.counts[:, np.newaxis]] = -1
        return rows

    def ask(k: int, setting: Parameters) -> Ask:
        index.expansion_search = setting["ef"]
        return Ask(lambda query: index.search(query, k, threads=1).keys, lambda queries: many(queries, k))

    return Built(int(index.serialized_length), ask)


def _voyager(vectors: Vectors, parameters: Parameters) -> Built:
    import voyager

    index = voyager.Index(
        voyager.Space.InnerProduct,
        num_dimensions=vectors.shape[1],
        M=parameters["M"],
        ef_construction=EF_CONSTRUCTION,
        max_elements=len(vectors),
    )
    index.add_items(vectors, num_threads=os.cpu_count() or 1)

    def search(queries: Vectors, k: int, ef: int) -> Any:
        try:
            return index.query(queries, k, num_threads=1, query_ef=ef)[0]
        except voyager.RecallError:  # fewer than k were found
            return np.full((*queries.shape[:-1], k), -1)

    def ask(k: int, setting: Parameters) -> Ask:
        def asked(queries: Vectors) -> Any:
            return search(queries, k, setting["ef"])

        return Ask(asked, asked)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        index.save(str(path))
        return Built(path.stat().st_size, ask)


def _two_graphs_grids(n: int) -> Grids:
    return [{"M": 16}, {"M": 32}], [{"ef": ef} for ef in EFS]


def _scann(vectors: Vectors, parameters: Parameters) -> Built:
    from scann.scann_ops.py import scann_ops_pybind

    leaves = parameters["leaves"]
    builder = scann_ops_pybind.builder(vectors, 20, "dot_product").set_n_training_threads(os.cpu_count() or 1)
    if leaves:
        soar = {"soar_lambda": parameters["soar"]} if "soar" in parameters else {}
        builder = builder.tree(leaves, max(1, leaves // 10), training_sample_size=250_000, **soar)
    searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def ask(k: int, setting: Parameters) -> Ask:
        of_leaves = min(setting["leaves_to_search"], leaves) if leaves else -1
        again = max(k, setting["reorder"])
        return Ask(
            lambda query: searcher.search(query, k, again, of_leaves)[0],
            lambda queries: searcher.search_batched(queries, k, again, of_leaves)[0],
        )

    with tempfile.TemporaryDirectory() as folder:
        searcher.serialize(folder)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    return Built(size, ask)


def _scann_grids(n: int) -> Grids:
    leaves = some_lists(n)
    searched = sorted({max(1, round(leaves * share)) for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)})
    settings = [{"leaves_to_search": each, "reorder": k} for each in searched for k in (50, 100, 300, 1000)]
    return [{"leaves": leaves}, {"leaves": leaves, "soar": 1.5}], settings


def _scann_flat_grids(n: int) -> Grids:
    return [{"leaves": 0}], [{"reorder": k} for k in (50, 100, 300, 1000)]


def _graph_grids(n: int) -> Grids:
    return [{"M": 16}, {"M": 32}, {"M": 16, "augmented": True}], [{"ef": ef} for ef in EFS]


RIVALS: dict[str, Rival] = {
    **FAISS,
    "hnswlib": Rival("hnswlib", "hnswlib", _hnswlib, _graph_grids),
    "usearch": Rival("usearch", "usearch", _usearch, _two_graphs_grids),
    "voyager": Rival("voyager", "voyager", _voyager, _two_graphs_grids),
    "scann": Rival("scann", "scann", _scann, _scann_grids),
    "scann-flat": Rival("scann", "scann", _scann, _scann_flat_grids),
}
