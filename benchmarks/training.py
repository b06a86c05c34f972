"""How fast does Nearcart train, beside the libraries that minimize the same objective on processors?

    python -m benchmarks.training [--sets gowalla,completejourney,made] [--factors 64,128,256,512] [--rounds 15]
        [--rivals implicit-cg,irspack-cg,...] [--solvers default,exact] [--threads N] [--limit 600] [--quick]
        [--json FILE]

Nearcart, implicit (conjugate gradients, Cholesky) and irspack (conjugate gradients, Cholesky, IALSPP) learn the same
float32 vectors from the same entries of weight 1, with the same number of threads, first item vectors, a0 and lambda.
implicit has nu = 0 only and irspack is run with nu = 1, so Nearcart appears once with each; at nu = 0 lambda is
multiplied by what n + a0 |others| is on average over all rows. Each trainer lives in a process of its own and runs one
epoch when told to: an epoch of the first, of the second, and so on, round after round, forwards and backwards in turn.

- s/epoch: median, least and most after a warm-up epoch. Compiling, reading, transposing and first vectors are apart
  (`setup_seconds` of the raw rows).
- objective: of docs/algorithm.md, by one float64 function for all (benchmarks/arithmetic.py), outside the clocks.
- seconds to a rival's objective: what Nearcart needs to be at or below (by 1e-6) the rival's objective after its last
  epoch. Nearcart's last solve of the users, which lowers its objective once more, counts on neither side.
- peak: of the whole process with its libraries, after the first epoch; beside it the size of both CSRs and the vectors.
- Gflop/s: operations of each trainer's own algorithm (formulas in benchmarks/arithmetic.py), beside the machine's
  matrix product; gather GB/s: each entry's vector once a half epoch, the same bytes for all, beside a plain copy.

"nearcart-default" is what users get, apart from the last epoch, which is solved like those of "nearcart-exact": to the
rounding of float32, from float32 tables.

Real sets are looked for in --data, NEARCART_DATA or ../shared/data. A rival that has trained for --limit seconds on a
set and length stops there, and is compared at the epoch that it reached.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import arithmetic
from benchmarks.catalogues import SETS
from benchmarks.interleaved import TrainerFailed, Worker
from benchmarks.made_sets import made_set, movielens_shape
from benchmarks.raw_rows import write_rows
from benchmarks.rivals import NEARCART_TOLERANCES, RIVALS, Setting
from benchmarks.training_tables import epochs_to, is_nearcart, print_tables
from engine.processor import resolved_threads
from trainer.cleaning import Cleaning
from trainer.interactions import Csr, read_interactions
from trainer.options import AlsOptions

_SETTLING_SECONDS = 0.3
"""Before an epoch: threads of OpenBLAS and OpenMP go on spinning after the last work they had, in whichever process."""


def main() -> None:
    arguments = _arguments()
    absent = sorted({rival.library for rival in RIVALS.values() if not rival.is_installed})
    if absent:
        print(f"absent, so not compared: {', '.join(absent)} (python -m pip install --group bench)", flush=True)
    names = [name for name in arguments.rivals if RIVALS[name].is_installed]
    rates = arithmetic.machine_rates(arguments.threads, quick=arguments.quick)
    print("{} threads; matrix product {:.0f} Gflop/s, copy {:.1f} GB/s".format(
        arguments.threads, rates["sgemm_flops_per_second"] / 1e9, rates["copy_bytes_per_second"] / 1e9
    ))  # fmt: skip
    rows: list[dict[str, Any]] = []
    for set_name in arguments.sets:
        by_user = _load(set_name, arguments.data, quick=arguments.quick)
        if by_user is None:
            continue
        with tempfile.TemporaryDirectory(prefix="nearcart-benchmark-") as folder:
            for part in ("indptr", "indices"):
                np.save(Path(folder) / f"{part}.npy", getattr(by_user, part))
            np.save(Path(folder) / "n_items.npy", by_user.n_columns)
            for factors in arguments.factors:
                about = {"set": set_name, "factors": factors, **rates}
                rows += _compare(about, by_user, Path(folder), names, arguments)
                if arguments.json is not None:
                    write_rows(arguments.json, rows)


def _load(name: str, data: Path, *, quick: bool) -> Csr | None:
    """The entries of a set, each of weight 1; None, and a line that says so, where its file is absent."""
    if name == "made":
        by_user = made_set(2_000, 500, 40_000, seed=20) if quick else movielens_shape()
    else:
        path, columns = data / SETS[name][0], SETS[name][1]
        if not path.is_file():
            print(f"{path} is absent: {name} is left out")
            return None
        by_user = read_interactions([str(path)], columns, cleaning=Cleaning(weighting="binary")).by_user
    return Csr(by_user.indptr, by_user.indices, np.ones_like(by_user.values), n_columns=by_user.n_columns)


def _compare(
    about: dict[str, Any], by_user: Csr, entries: Path, names: list[str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Every trainer on one set with vectors of one length; prints the tables and returns the raw rows."""
    workers: list[Worker] = []
    try:
        for exponent in sorted({RIVALS[name].exponent for name in names} or {1.0}, reverse=True):
            setting = _setting(by_user, about["factors"], exponent, arguments)
            mine = [f"nearcart-{solver}" for solver in arguments.solvers]
            for name in [*mine, *(name for name in names if RIVALS[name].exponent == exponent)]:
                try:
                    workers.append(Worker(name, entries, setting))
                except TrainerFailed as failure:
                    _excuse(failure, name)
        _run_rounds(workers, by_user, arguments)
    finally:
        for worker in workers:
            worker.stop()
    rows = [row for worker in workers for row in _raw_rows(worker, by_user, about)]
    print_tables(rows)
    return rows


def _setting(by_user: Csr, factors: int, exponent: float, arguments: argparse.Namespace) -> Setting:
    """The defaults of Nearcart for a set of this density; lambda follows nu so that the mean penalty stays."""
    options = AlsOptions()
    weight = options.unobserved_weight_for(by_user.n_rows, by_user.n_columns, by_user.n_entries)
    users, items = np.diff(by_user.indptr), np.bincount(by_user.indices, minlength=by_user.n_columns)
    sizes = np.concatenate([users + weight * by_user.n_columns, items + weight * by_user.n_rows])
    # Nearcart may need more epochs to reach what a rival has after --rounds, so it is prepared for twice as many.
    return Setting(
        factors=factors,
        unobserved_weight=weight,
        regularization=options.regularization * float(np.mean(sizes) / np.mean(sizes**exponent)),
        exponent=exponent,
        epochs=2 * arguments.rounds,
        threads=arguments.threads,
        init_scale=options.init_scale,
    )


def _run_rounds(workers: list[Worker], by_user: Csr, arguments: argparse.Namespace) -> None:
    for number in range(arguments.rounds):
        for worker in list(workers if number % 2 == 0 else reversed(workers)):
            if is_nearcart(worker.name) or sum(worker.seconds) < arguments.limit:
                try:
                    _one_epoch(worker, by_user)
                except TrainerFailed as failure:
                    _excuse(failure, worker.name)
                    worker.stop()
                    workers.remove(worker)
    for worker in (each for each in workers if is_nearcart(each.name)):
        rivals = (each for each in workers if not is_nearcart(each.name))
        goals = [each.objectives[-1] for each in rivals if each.setting.exponent == worker.setting.exponent]
        while any(epochs_to(worker.objectives, goal) is None for goal in goals):
            if len(worker.seconds) == worker.setting.epochs:
                break
            _one_epoch(worker, by_user)


def _one_epoch(worker: Worker, by_user: Csr) -> None:
    time.sleep(_SETTLING_SECONDS)
    worker.epoch()
    users, items = worker.vectors()
    setting = worker.setting
    worker.objectives.append(
        arithmetic.objective(
            by_user, users, items, setting.unobserved_weight, setting.regularization, setting.exponent, setting.threads
        )
    )


def _excuse(failure: TrainerFailed, name: str) -> None:
    """A rival that fails leaves the run; without Nearcart there is nothing to compare with."""
    if name.startswith("nearcart"):
        raise SystemExit(str(failure)) from failure
    print(f"{failure}: left out", flush=True)


def _raw_rows(worker: Worker, by_user: Csr, about: dict[str, Any]) -> list[dict[str, Any]]:
    factors = about["factors"]
    fixed = {
        **about,
        "trainer": worker.name,
        **asdict(worker.setting),
        **worker.facts,
        "users": by_user.n_rows,
        "items": by_user.n_columns,
        "entries": by_user.n_entries,
        "theoretical_bytes": arithmetic.theoretical_bytes(by_user, factors),
        "gather_bytes": arithmetic.gather_bytes(by_user.n_entries, factors),
    }
    measured = zip(worker.seconds, worker.objectives, worker.multiply_adds, strict=True)
    return [
        {
            **fixed,
            "epoch": epoch,
            "seconds": seconds,
            "objective": objective,
            "flops": arithmetic.epoch_flops(worker.name, by_user, factors, multiply_adds),
        }
        for epoch, (seconds, objective, multiply_adds) in enumerate(measured, start=1)
    ]


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [each for each in text.split(",") if each]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEARCART_DATA", "../shared/data")))
    parser.add_argument("--sets", type=names, default=[*SETS, "made"], help=f"of {', '.join(SETS)}, made")
    parser.add_argument("--factors", type=lambda text: [int(each) for each in names(text)], default=[64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=15, help="epochs of each, the first a warm-up (%(default)s)")
    parser.add_argument("--rivals", type=names, default=list(RIVALS), help=f"of {', '.join(RIVALS)}")
    parser.add_argument("--solvers", type=names, default=["default"], help="Nearcart's: default, exact")
    parser.add_argument("--threads", type=int, default=0, help="for every trainer; 0 takes all cores")
    parser.add_argument("--limit", type=float, default=600, help="training seconds of a rival (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small made set, 16 factors, 3 epochs: does it run?")
    parser.add_argument("--json", type=Path, help="write the raw rows to this file, one JSON object a line")
    found = parser.parse_args()
    known = ({*SETS, "made"}, {*RIVALS}, {*NEARCART_TOLERANCES})
    asked = ({*found.sets}, {*found.rivals}, {*found.solvers})
    if unknown := set().union(*(each - of for each, of in zip(asked, known, strict=True))):
        parser.error(f"found {', '.join(sorted(unknown))}; expected what --help lists")
    if found.quick:
        found.sets, found.factors, found.rounds = ["made"], [16], 3
    found.threads = resolved_threads(found.threads)
    return found


if __name__ == "__main__":
    main()
