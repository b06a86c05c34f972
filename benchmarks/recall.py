"""At the recall that was promised, how fast does Nearcart's index answer, beside the libraries that one would take?

    python -m benchmarks.recall [--sets gowalla,completejourney,made] [--factors 64,128,256,512] [--rounds 5]
        [--rivals faiss-flat,scann,...] [--no-filters] [--cache DIR] [--data DIR] [--made-items 1000000] [--quick]
        [--json FILE] [--plot FILE.png]

Nearcart at promises of .90, .95, .99 and 1, and FAISS (Flat, HNSW, inverted lists), hnswlib, usearch, voyager and ScaNN
over grids of builds and settings search the same float32 vectors for the 20 largest inner products, with one thread
and all in one process. Real sets are trained by Nearcart with its defaults; the made one has the norms and the spectrum
of a real one (benchmarks/made_catalogue.py), and vectors of 128. All indexes of a set and length are in memory
together: 8 GiB for a million items.

- recall: by score, so that a tie at the twentieth place is found (benchmarks/search_quality.py), for every kind of
  query apart: users, and carts of 1, 3 and 10 items. Nearcart chooses its parameters by other queries than these.
- us: median of a query, one by one from Python, in interleaved rounds, forwards and backwards in turn, after a warm-up;
  of all rounds the median, and in the raw rows least and most, and p99. Batches: the time of the batch over its size.
- tables: of each index the fastest setting that finds as much as the line says in every kind of query of the group.
  "1.0" is that nothing was missed in this run; only nearcart, faiss-flat promise it. /ours: times as long as
  Nearcart; flat/: times faster than FAISS Flat. Settings far from their library's frontier are timed in the warm-up
  only (`rounds` 0), and of more than 500,000 vectors a library has one build.
- Gflop/s: 2 n d m / seconds of batches, beside the matrix product alone in the same rounds.
- seconds, MiB: of building by all cores, and of the index as a file, with the vectors that it needs.

After that: what encoding a cart adds, and at 128 factors searches among some of the items
(benchmarks/search_filters.py).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.catalogues import SETS, Catalogue, read_set, real_catalogue
from benchmarks.made_catalogue import made_catalogue
from benchmarks.raw_rows import environment, write_rows
from benchmarks.recall_plot import plot
from benchmarks.recall_tables import print_tables
from benchmarks.search_filters import measure_carts, measure_filters
from benchmarks.search_nearcart import PROMISES, built_nearcart
from benchmarks.search_rivals import RIVALS
from benchmarks.search_rounds import Entry, measure, modes_of
from benchmarks.search_seam import Built, Parameters, words

_K = 20
_BATCHES = (64, 1024)
_SINGLE = 250
"""Queries of each kind that are asked one by one."""
_MADE_FACTORS = 128
_FILTER_FACTORS = 128
_QUICK_STEP = 5
"""A quick run takes every so many of the settings."""


def main() -> None:
    arguments = _arguments()
    absent = sorted({rival.package for rival in RIVALS.values() if not rival.is_installed})
    if absent:
        print(f"absent, so not compared: {', '.join(absent)} (python -m pip install --group bench)", flush=True)
    rows: list[dict[str, Any]] = []
    with _folder(arguments.cache) as cache:
        for catalogue, with_filters in _catalogues(arguments, cache):
            rows += _compare(catalogue, arguments, with_filters=with_filters)
            if arguments.json is not None:
                write_rows(arguments.json, rows)
            if arguments.plot is not None:
                plot(rows, arguments.plot)


def _catalogues(arguments: argparse.Namespace, cache: Path) -> Iterator[tuple[Catalogue, bool]]:
    """One after the other, each with whether filters are measured with it."""
    for name in arguments.sets:
        if name == "made":
            yield made_catalogue(arguments.made_items, arguments.made_factors), arguments.filters
            continue
        data = read_set(name, arguments.data)
        if data is None:
            continue
        of_filters = _FILTER_FACTORS if _FILTER_FACTORS in arguments.factors else arguments.factors[0]
        for factors in arguments.factors:
            yield real_catalogue(name, data, factors, cache), arguments.filters and factors == of_filters


def _compare(catalogue: Catalogue, arguments: argparse.Namespace, *, with_filters: bool) -> list[dict[str, Any]]:
    """Build everything over one catalogue and measure it; prints the tables and returns the raw rows."""
    n, d = catalogue.vectors.shape
    print(f"\n{catalogue.name}, {n:,} x {d}: building", flush=True)
    entries = _nearcart(catalogue)
    for name in (name for name in arguments.rivals if RIVALS[name].is_installed):
        rival = RIVALS[name]
        step = _QUICK_STEP if arguments.quick else 1
        for build in rival.builds(n)[: 1 if arguments.quick else None]:
            entries += _built(
                name,
                rival.version,
                build,
                rival.settings(n)[::step],
                lambda r=rival, b=build: r.build(catalogue.vectors, b),
            )
    modes = modes_of(catalogue, arguments.queries, arguments.batches)
    print(f"measuring {len(entries)} settings", flush=True)
    with threadpool_limits(1):
        rows = measure(entries, catalogue, modes, _K, arguments.rounds)
        if with_filters:
            rows += measure_filters(entries, catalogue, _K, arguments.rounds)
        rows += measure_carts(entries, catalogue, _K, arguments.rounds)
    around = {"blas": _blas(), "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"), "load": os.getloadavg()[0]}
    rows = [row | around for row in rows]
    print_tables(rows)
    return rows


def _nearcart(catalogue: Catalogue) -> list[Entry]:
    return _built(
        "nearcart",
        environment()["nearcart"],
        {},
        [{"promise": promise} for promise in PROMISES],
        lambda: built_nearcart(catalogue.vectors, catalogue.tuning, _K, PROMISES),
    )


def _built(
    name: str, version: str, build: Parameters, settings: list[Parameters], work: Callable[[], Built]
) -> list[Entry]:
    """The index with each of its settings; none, and a line that says why, where a library cannot build it."""
    started = time.perf_counter()
    try:
        built = work()
    except (RuntimeError, ValueError, MemoryError) as error:
        if name == "nearcart":
            raise
        print(f"{name} {words(build)}: {error}: left out", flush=True)
        return []
    seconds = time.perf_counter() - started - built.choosing_seconds
    print(f"  {name} {words(build)} in {seconds:.1f} s", flush=True)
    about = {"version": version, "build_seconds": seconds, "choosing_seconds": built.choosing_seconds}
    return [Entry(name, build, setting, built, about) for setting in settings]


def _blas() -> list[str]:
    """The kernels that matrix products run on: numpy's and FAISS's are not the same library."""
    found = [each for each in threadpool_info() if each["user_api"] == "blas"]
    return sorted(f"{each['internal_api']} {each['version']} {each.get('architecture')}" for each in found)


@contextmanager
def _folder(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="nearcart-benchmark-") as folder:
        yield Path(folder)


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [each for each in text.split(",") if each]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEARCART_DATA", "../shared/data")))
    parser.add_argument("--cache", type=Path, help="trained vectors are kept here (default: not at all)")
    parser.add_argument("--sets", type=names, default=[*SETS, "made"], help=f"of {', '.join(SETS)}, made")
    parser.add_argument("--factors", type=lambda text: [int(each) for each in names(text)], default=[64, 128, 256, 512])
    parser.add_argument("--made-items", type=int, default=1_000_000, metavar="N", help="items of the made set")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s)")
    parser.add_argument("--rivals", type=names, default=list(RIVALS), help=f"of {', '.join(RIVALS)}")
    parser.add_argument("--filters", action=argparse.BooleanOptionalAction, default=True, help="the matrix of filters")
    parser.add_argument("--quick", action="store_true", help="a small made set, few settings: does it run?")
    parser.add_argument("--json", type=Path, help="write the raw rows to this file, one JSON object a line")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw recall against time")
    found = parser.parse_args()
    if unknown := {*found.sets} - {*SETS, "made"} | {*found.rivals} - {*RIVALS}:
        parser.error(f"found {', '.join(sorted(unknown))}; expected what --help lists")
    found.made_factors, found.queries, found.batches = _MADE_FACTORS, _SINGLE, _BATCHES
    if found.quick:
        found.sets, found.made_items, found.made_factors, found.rounds = ["made"], 3_000, 16, 1
        found.queries, found.batches = 20, (16, 64)
    return found


if __name__ == "__main__":
    main()
