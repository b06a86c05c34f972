"""Are vectors and sparse parts together better than either, and than simple models, where only users are asked?

    python -m benchmarks.blends [--data DIR] [--quick] [--trials N] [--seed S] [--json FILE]

Two public sets, looked for in --data, NEARCART_DATA or ../shared/data; what is absent is named and left out:

- gowalla (LightGCN's split; recall@20 and ndcg@20 of all items that are new to a user): the vectors of 512 factors
  that docs/quality.md tuned, the regression, and their blend. The regression's penalty, of three, and the weights are
  chosen on a random fifth of the training entries.
- retailrocket (views, carts and purchases; hr@10 and ndcg@10 of each user's next purchase): the blend against
  popularity, item-KNN and iALS, each with `--trials` trials, its own weights of views and carts among them. The
  validation is each user's last purchase in training, without any event of that user and item.

Everything is chosen on the validation; then each model is trained on the whole training and measured once. Differences
are of the first model to each.
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
import pyarrow as pa
from pyarrow import parquet

from benchmarks.asked import Asked, learn, measured, only, scorer_of, weigh, with_found
from benchmarks.behaviours import AIM, CONTENDERS, METRICS, Contender, Part, last_purchases_out
from benchmarks.comparisons import comparisons, print_comparisons
from benchmarks.contenders import Budget, best_of, installed
from benchmarks.made_sets import made_set
from benchmarks.quality import finite, spelled
from benchmarks.raw_rows import write_rows
from trainer import als
from trainer.cases import Cases, user_cases
from trainer.cleaning import Cleaning
from trainer.interactions import read_interactions
from trainer.learned import Learned
from trainer.metrics import parse_metrics
from trainer.model_options import ALS, BLEND, REGRESSION, ModelOptions
from trainer.options import AlsOptions
from trainer.splits import read_split
from trainer.validation import validation_of

PENALTIES = (1.0, 2.3, 4.0)
VECTORS = AlsOptions(
    factors=512, epochs=5, regularization=0.1031, unobserved_weight=0.01717, regularization_exponent=0.5
)
"""Of docs/quality.md, where they were tuned on the same kind of validation; with the weighting `propensity`."""
OF_GOWALLA = parse_metrics("recall@20,ndcg@20")
MOST_CASES = 4000
_PARTS = (ALS, REGRESSION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEARCART_DATA", "../shared/data")))
    parser.add_argument("--quick", action="store_true", help="made sets, two small trials, for correctness only")
    parser.add_argument("--trials", type=int, default=20, help="of each model on retailrocket (%(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of everything random")
    parser.add_argument("--json", type=Path, help="write every row here: the trials, then the measurements")
    arguments = parser.parse_args()
    budget = Budget(arguments.trials, (64, 128), 14, arguments.seed)
    gowalla, rocket = arguments.data / "gowalla-lightgcn", arguments.data / "retailrocket-multibehaviour"
    rows = []
    with tempfile.TemporaryDirectory() as made:
        if arguments.quick:
            budget = replace(budget, trials=2, factors=(8,), epochs=2)
            gowalla, rocket = made_gowalla(Path(made), budget.seed), made_behaviours(Path(made), budget.seed)
        for folder in (gowalla, rocket):
            if not folder.is_dir():
                print(f"{folder} is absent: it is not measured")
            elif folder is gowalla:
                vectors = replace(VECTORS, seed=budget.seed, factors=8 if arguments.quick else VECTORS.factors)
                rows += gowalla_rows(folder, vectors)
            else:
                purchases = Part(folder / "train_events.parquet", folder / "test_buy.parquet")
                rows += purchase_rows(purchases, installed(CONTENDERS), budget)
    if arguments.json is not None:
        write_rows(arguments.json, rows)


def gowalla_rows(folder: Path, options: AlsOptions) -> list[dict]:
    cleaning, seed = Cleaning(weighting="propensity"), options.seed
    events, later = (next(folder.glob(f"{name}.txt*")) for name in ("train", "test"))
    split = read_split([str(events)], split="random:0.2", cleaning=cleaning, seed=seed)
    asked = Asked(split.train, of_users(validation_of(split, most=MOST_CASES, seed=seed).cases))
    vectors = Learned(als.train(split.train, options))
    rows, best, chosen = [], -1.0, None
    for penalty in PENALTIES:
        learned = learn(split.train, _PARTS, ModelOptions(penalty=penalty), lambda: vectors)
        found = weigh(learned, asked)
        alone = dict(found.metrics["user"])
        weights = {name: each.weight.user for name, each in found.settings.items()}
        rows.append({"set": "gowalla", "row": "trial", "penalty": penalty, "weights": weights, "ndcg@20": alone})
        told = ", ".join(f"{name} {value:.4f}" for name, value in alone.items())
        print(f"gowalla: penalty {penalty}: ndcg@20 {told} on the validation; weights {weights}", flush=True)
        if alone[BLEND] > best:
            best, chosen = alone[BLEND], (penalty, found)
    assert chosen is not None
    penalty, found = chosen
    train = read_interactions([str(events)], cleaning=cleaning)
    cases = user_cases(train, read_interactions([str(later)], cleaning=cleaning), repeats=False)
    whole = learn(train, _PARTS, ModelOptions(penalty=penalty), lambda: Learned(als.train(train, options)))
    models = {"als + regression": with_found(whole, found), REGRESSION: only(whole, REGRESSION), ALS: only(whole, ALS)}
    measurements = {
        name: [measured(scorer_of(each, cases, train.n_items), cases, OF_GOWALLA)] for name, each in models.items()
    }
    print(
        f"\ngowalla, penalty {penalty}: {train.n_users:,} users, {train.n_items:,} items, {train.n_entries:,} entries"
    )
    of_test = comparisons({"set": "gowalla"}, measurements, seed)
    print_comparisons(of_test)
    return [*rows, *of_test]


def of_users(cases: Sequence[Cases]) -> Cases:
    return next(each for each in cases if each.kind == "user")


def purchase_rows(part: Part, contenders: Sequence[Contender], budget: Budget) -> list[dict]:
    rows, settings, found = [], {}, {}
    with tempfile.TemporaryDirectory() as directory:
        validation = last_purchases_out(part, Path(directory))
        for contender in contenders:
            started = time.perf_counter()
            trials = contender.tune(validation, budget)
            best = best_of(trials)
            settings[contender.name] = best.setting
            rows += [
                {"set": "retailrocket", "model": contender.name, "row": "trial", **asdict(each)} for each in trials
            ]
            print(
                f"retailrocket: {contender.name}: {AIM} {best.aim:.4f} on the validation, in {len(trials)} trials, "
                f"{time.perf_counter() - started:.0f} s: {spelled(best.setting)}",
                flush=True,
            )
    for contender in contenders:
        train = part.train(settings[contender.name])
        cases = part.cases(train)
        scorer = contender.fit(train, cases, settings[contender.name], budget.seed)
        found[contender.name] = [measured(scorer, cases, METRICS)]
    print(f"\nretailrocket: {len(cases.evidence):,} users' next purchases")
    of_test = comparisons({"set": "retailrocket"}, found, budget.seed)
    print_comparisons(of_test)
    return [finite(row) for row in [*rows, *of_test]]


def made_gowalla(directory: Path, seed: int) -> Path:
    """Files of a user a line; every fifth item of each is the test."""
    entries = made_set(300, 60, 3000, seed)
    folder = directory / "gowalla"
    folder.mkdir()
    for name, kept in (("train", 0), ("test", 1)):
        lines = []
        for user in range(entries.n_rows):
            items = entries.row(user)[0]
            is_test = np.arange(len(items)) % 5 == 4
            chosen = items[is_test == bool(kept)].tolist()
            if chosen:
                lines.append(" ".join(map(str, [user, *chosen])))
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def made_behaviours(directory: Path, seed: int) -> Path:
    """Users who buy what comes two places after what they saw last."""
    generator = np.random.default_rng(seed)
    folder = directory / "behaviours"
    folder.mkdir()
    events: list[tuple[int, int, str, int]] = []
    bought: list[tuple[int, int]] = []
    for user in range(200):
        seconds, start = 1_430_000_000 + 10_000 * user, int(generator.integers(40))
        for step in range(3):
            items = [(start + 3 * step + place) % 40 for place in range(3)]
            for place, (item, kind) in enumerate(zip(items, ("view", "cart", "buy"), strict=True)):
                if step < 2 or kind != "buy":
                    events.append((user, item, kind, seconds + 100 * step + place))
                else:
                    bought.append((user, item))
    names = ("user", "item", "event", "timestamp")
    parquet.write_table(
        pa.table(dict(zip(names, map(list, zip(*events, strict=True)), strict=True))), folder / "train_events.parquet"
    )
    parquet.write_table(
        pa.table(dict(zip(names[:2], map(list, zip(*bought, strict=True)), strict=True))), folder / "test_buy.parquet"
    )
    return folder


if __name__ == "__main__":
    main()
