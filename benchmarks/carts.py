"""What goes with a cart: does the blend find more hidden items than tuned iALS, item-KNN and association rules?

    python -m benchmarks.carts [--data DIR] [--shop NAME] [--quick] [--trials N] [--seed S] [--json FILE]

On two real shops, the bundled one and completejourney (looked for in --data, NEARCART_DATA or ../shared/data). The last
four weeks are the test, the four weeks before it the validation. Of each basket of 3 to 60 known items one is hidden
(by a seed of its own, the same for all): is it among the ten best for the others (hr@10), without knowing the user?
iALS learns from users' histories, or from baskets as if each were a user (`ials-baskets`); item-KNN from either.

Every model has the same number of trials on the validation carts, aimed at hr@10; then it is trained once on everything
before the test weeks with what was best, and measured once. The blend's weights are found on the validation carts too;
`blend-default` has nothing else tuned. Intervals are 95% of a bootstrap over carts; the last columns are the paired
difference, blend minus the model, and its p-value (trainer.comparison). Models of an absent library are left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.cart_contenders import AIM, CONTENDERS, Contender
from benchmarks.comparisons import comparisons, print_comparisons
from benchmarks.contenders import Budget, best_of, installed
from benchmarks.held_out_weeks import OF_CARTS, Weeks
from benchmarks.quality import finite, spelled, test_weeks, validation_weeks
from benchmarks.raw_rows import write_rows
from benchmarks.real_shops import RealShop, cut, real_shops
from trainer.metrics import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEARCART_DATA", "../shared/data")))
    parser.add_argument("--shop", default="", help="only this one: online-retail or completejourney")
    parser.add_argument("--quick", action="store_true", help="the bundled shop, two small trials, for correctness only")
    parser.add_argument("--trials", type=int, default=20, help="of each model on each shop (%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of everything random but the carts")
    parser.add_argument("--json", type=Path, help="write every row here: the trials, then the measurements")
    arguments = parser.parse_args()
    budget = Budget(arguments.trials, (64, 128), 14, arguments.seed)
    if arguments.quick:
        budget = replace(budget, trials=2, factors=(8,), epochs=2)
    rows = []
    for shop in real_shops(arguments.data, quick=arguments.quick):
        if arguments.shop not in ("", shop.name):
            continue
        rows += compare_on(shop, installed(CONTENDERS), budget)
        if arguments.json is not None:
            write_rows(arguments.json, rows)


def compare_on(shop: RealShop, contenders: Sequence[Contender], budget: Budget) -> list[dict]:
    rows, settings = [], {}
    with tempfile.TemporaryDirectory() as directory:
        before, after = cut(shop.events, shop.columns, Path(directory))
        validation = validation_weeks(shop, before, 0, budget.seed)
        for contender in contenders:
            started = time.perf_counter()
            trials = contender.tune(validation, budget)
            best = best_of(trials)
            settings[contender.name] = best.setting
            rows += [{"shop": shop.name, "model": contender.name, "row": "trial", **asdict(trial)} for trial in trials]
            seconds = time.perf_counter() - started
            print(
                f"{shop.name}: {contender.name}: {AIM} {best.aim:.4f} on the validation carts, in {len(trials)} "
                f"trials, {seconds:.0f} s: {spelled(best.setting)}",
                flush=True,
            )
        del validation
        test = test_weeks(shop, before, after, budget.seed)
    found = {
        contender.name: [numbers_of(contender, test, settings[contender.name], budget.seed)] for contender in contenders
    }
    measured = comparisons({"shop": shop.name}, found, budget.seed)
    train = test.experiment.split.train
    baskets = 0 if train.baskets is None else len(train.baskets)
    print(f"\n{shop.name}: trained on {baskets:,} baskets of {train.n_items:,} items; {len(test.carts.hidden):,} carts")
    print_comparisons(measured)
    print(in_words(shop.name, {name: float(numbers[0][AIM].mean()) for name, numbers in found.items()}), flush=True)
    return [finite(row) for row in [*rows, *measured]]


def numbers_of(contender: Contender, test: Weeks, setting: dict, seed: int) -> dict[str, np.ndarray]:
    model = contender.fit(test.train_under, setting, seed)
    return measure(OF_CARTS, test.cart_ranking(model)).per_user


def in_words(shop: str, means: dict[str, float]) -> str:
    """How many times what the best of the others find the blends find."""
    lines = []
    for others in (("ials", "ials-baskets"), ("item-knn", "rules")):
        best = max((name for name in others if name in means), key=lambda name: means[name])
        lines += [
            f"{shop}: {name} finds {means[name] / means[best]:.3f} times what {best} finds"
            for name in ("blend", "blend-default")
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
