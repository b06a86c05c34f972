"""Does ALS that is tuned here beat popularity, item-KNN and implicit's ALS that are tuned with the same budget?

    python -m benchmarks.quality [--data DIR] [--quick] [--trials N] [--seed S] [--json FILE]

On two real shops, the bundled one and completejourney (looked for in --data, NEARCART_DATA or ../shared/data). The last
four weeks are the test; everything is tuned on the four weeks before it, for ndcg@20 of up to 500 users, in files
that end where the test begins. Then each model is trained once with its best setting on all before the test, and
measured once:

- recall@20, ndcg@20 of known users: known items that are new to them, ranked without their history;
- hr@10 of carts: a test basket of 3 to 60 known items, one of them hidden by a seed, given the others and no user.

Intervals are 95% of a bootstrap over users or carts; the last columns are the paired difference, Nearcart minus the
model, and its p-value (trainer.comparison). Models of a library that is absent are not compared.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.comparisons import comparisons, print_comparisons
from benchmarks.contenders import CONTENDERS, Budget, Contender, Setting, Trial, best_of, installed
from benchmarks.held_out_weeks import AIM, Weeks, weeks
from benchmarks.raw_rows import write_rows
from benchmarks.real_shops import WEEKS, RealShop, cut, real_shops
from trainer.interactions import read_interactions
from trainer.splits import read_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEARCART_DATA", "../shared/data")))
    parser.add_argument("--quick", action="store_true", help="the bundled shop, two small trials, for correctness only")
    parser.add_argument("--trials", type=int, default=12, help="of each model on each shop (%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of everything random but the carts")
    parser.add_argument("--json", type=Path, help="write every row here: the trials, then the measurements")
    arguments = parser.parse_args()
    budget = Budget(arguments.trials, (64, 128), 12, arguments.seed)
    if arguments.quick:
        budget = replace(budget, trials=2, factors=(8,), epochs=2)
    rows = []
    for shop in real_shops(arguments.data, quick=arguments.quick):
        rows += compare_on(shop, installed(CONTENDERS), budget, most_users=100 if arguments.quick else 500)
    if arguments.json is not None:
        write_rows(arguments.json, rows)


def compare_on(shop: RealShop, contenders: Sequence[Contender], budget: Budget, *, most_users: int) -> list[dict]:
    rows, found = [], {}
    with tempfile.TemporaryDirectory() as directory:
        before, after = cut(shop.events, shop.columns, Path(directory))
        validation = validation_weeks(shop, before, most_users, budget.seed)
        settings = {}
        for contender in contenders:
            started = time.perf_counter()
            trials = contender.tune(validation, budget)
            settings[contender.name] = best_of(trials).setting
            rows += [{"shop": shop.name, "model": contender.name, "row": "trial", **asdict(trial)} for trial in trials]
            print(told(shop, contender, trials, time.perf_counter() - started), flush=True)
        test = test_weeks(shop, before, after, budget.seed)
        for contender in contenders:
            model = contender.fit(test.train_under, settings[contender.name], budget.seed)
            found[contender.name] = test.measured(model)
    measured = comparisons({"shop": shop.name}, found, budget.seed)
    print_table(shop, test, measured)
    return [finite(row) for row in [*rows, *measured]]


def validation_weeks(shop: RealShop, before: Path, most_users: int, seed: int) -> Weeks:
    """The last weeks before the test, and a training that ends where they begin; the test is in neither."""
    split = read_split(
        [str(before)], shop.columns, f"time:{WEEKS}w", cleaning=replace(shop.cleaning, weighting="count")
    )
    return weeks(shop, split.train, split.test, most_users=most_users, seed=seed)


def test_weeks(shop: RealShop, before: Path, after: Path, seed: int) -> Weeks:
    cleaning = replace(shop.cleaning, weighting="count")
    train, test = (read_interactions([str(path)], shop.columns, cleaning=cleaning) for path in (before, after))
    return weeks(shop, train, test, most_users=0, seed=seed)


def told(shop: RealShop, contender: Contender, trials: Sequence[Trial], seconds: float) -> str:
    best = best_of(trials)
    words = spelled(best.setting)
    tuned = f"in {len(trials)} trials, {seconds:.0f} s: {words}" if words else "with nothing to tune"
    return f"{shop.name}: {contender.name}: {AIM.name} {best.aim:.4f} on the validation weeks, {tuned}"


def spelled(setting: Setting) -> str:
    """In words."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in setting.items()
    )


def print_table(shop: RealShop, test: Weeks, rows: Sequence[dict]) -> None:
    train = test.experiment.split.train
    print(
        f"\n{shop.name}: trained on {train.n_users:,} users, {train.n_items:,} items, {train.n_entries:,} entries; "
        f"measured with {len(test.held_out.users):,} users and {len(test.carts.hidden):,} carts"
    )
    print_comparisons(rows)


def finite(row: dict) -> dict:
    """A trial that diverged has no number, and JSON no infinity for it."""
    return row | {"aim": None} if row.get("aim") == -math.inf else row


if __name__ == "__main__":
    main()
