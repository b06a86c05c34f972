"""FAISS behind the seam of benchmarks.recall: Flat, HNSW, and inverted lists with and without codes.

Filters are bitmaps. Its sizes are those of its files, which are not written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def _rival(factory: Callable[[int, Parameters], str], grids: Callable[[int], Grids]) -> Rival:
    return Rival("faiss-cpu", "faiss", _builder(factory), grids)


def _builder(factory: Callable[[int, Parameters], str]) -> Callable[[Vectors, Parameters], Built]:
    def build(vectors: Vectors, parameters: Parameters) -> Built:
        import faiss

        is_augmented = bool(parameters.get("augmented"))
        data = augmented(vectors) if is_augmented else vectors
        metric = faiss.METRIC_L2 if is_augmented else faiss.METRIC_INNER_PRODUCT
        index = faiss.index_factory(data.shape[1], factory(vectors.shape[1], parameters), metric)
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        if hasattr(index, "hnsw"):
            index.hnsw.efConstruction = EF_CONSTRUCTION
        index.train(data)
        index.add(data)
        faiss.omp_set_num_threads(1)

        def ask(k: int, setting: Parameters) -> Ask:
            faiss.omp_set_num_threads(1)
            faiss.cvar.distance_compute_blas_threshold = setting.get("blas_threshold", 128_000)
            options = _faiss_options(faiss, index, setting)
            if is_augmented:
                return Ask(
                    lambda query: index.search(padded(query[np.newaxis]), k, params=options)[1][0],
                    lambda queries: index.search(padded(queries), k, params=options)[1],
                )
            return Ask(
                lambda query: index.search(query[np.newaxis], k, params=options)[1][0],
                lambda queries: index.search(queries, k, params=options)[1],
            )

        def filtered(k: int, setting: Parameters, allowed: NDArray[np.bool_]) -> Callable[[Vectors], Any]:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
            options = _faiss_options(faiss, index, setting, selector)
            return lambda query: index.search(query[np.newaxis], k, params=options)[1][0]

        return Built(_faiss_bytes(faiss, index), ask, None if is_augmented else filtered)

    return build


def _faiss_options(faiss: Any, index: Any, setting: Parameters, selector: Any = None) -> Any:
    if "ef" in setting:
        return faiss.SearchParametersHNSW(sel=selector, efSearch=setting["ef"])
    if "k_factor" in setting:
        base = faiss.SearchParametersIVF(sel=selector, nprobe=setting["nprobe"])
        return faiss.IndexRefineSearchParameters(k_factor=setting["k_factor"], base_index_params=base)
    if "nprobe" in setting:
        return faiss.SearchParametersIVF(sel=selector, nprobe=setting["nprobe"])
    return None if selector is None else faiss.SearchParameters(sel=selector)


def _faiss_bytes(faiss: Any, index: Any) -> int:
    """The size of its file, which is not written."""
    sizes: list[int] = []
    faiss.write_index(index, faiss.PyCallbackIOWriter(lambda data: sizes.append(len(data))))
    return sum(sizes)


def _flat_grids(n: int) -> Grids:
    # A default threshold keeps small batches from being matrix products, which costs them several times over.
    return [{}], [{}, {"blas_threshold": 640}]


def _graph_grids(n: int) -> Grids:
    return [{"M": 16}, {"M": 32}, {"M": 16, "augmented": True}], [{"ef": ef} for ef in EFS]


def _lists_grids(n: int) -> Grids:
    lists = some_lists(n)
    return [{"lists": lists}, {"lists": 4 * lists}], [{"nprobe": nprobe} for nprobe in _powers(1, lists)]


def _codes_grids(n: int) -> Grids:
    lists = some_lists(n)
    settings = [{"nprobe": nprobe, "k_factor": k} for nprobe in _powers(2, lists) for k in (4, 8, 16)]
    return [{"lists": lists}], settings


def _powers(first: int, last: int) -> list[int]:
    return [2**e for e in range(first.bit_length() - 1, last.bit_length())]


FAISS: dict[str, Rival] = {
    "faiss-flat": _rival(lambda d, _: "Flat", _flat_grids),
    "faiss-hnsw": _rival(lambda d, build: f"HNSW{build['M']}", _graph_grids),
    "faiss-ivf": _rival(lambda d, build: f"IVF{build['lists']},Flat", _lists_grids),
    "faiss-ivf-pq": _rival(lambda d, build: f"IVF{build['lists']},PQ{d // 2}x4fs,RFlat", _codes_grids),
}
