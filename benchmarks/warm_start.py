"""How many epochs does a training save that starts from last week's vectors, and how far do exported vectors move?

    python -m benchmarks.warm_start [--seeds 6] [--threads N] [--quick] [--json FILE]

The bundled shop, cut by time: "yesterday" is all but the last two weeks, "today" all but the last one, which is the
test. Yesterday is trained cold; today cold with the same epochs, and from yesterday's item vectors with fewer. Each row
has the objective relative to the cold training of the same data, its seconds, recall@20 of the items of the last week
that are new to their users (history excluded from the ranking), and the median cosine of the item vectors of both weeks
as they are exported: turned by the release's rotation, and as they would be without it. Yesterday once more with
another seed says how much of the movement of cold vectors is chance. All of it once per seed, because recall moves with
the seed by more than the trainings differ; the table has means, and least and most recall.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import duckdb

from benchmarks.raw_rows import write_rows
from benchmarks.real_shops import only_new
from trainer.als import Embeddings, train
from trainer.evaluate import HeldOut, Scorer, hold_out, rank_catalogue
from trainer.export import align, exported, median_cosine
from trainer.interactions import Interactions, read_interactions
from trainer.metrics import parse_metrics
from trainer.options import AlsOptions
from trainer.shop import bundled_shop
from trainer.warm_start import Previous, initial_items

_METRIC = "recall@20"
_WARM_EPOCHS = (1, 2, 3, 4)

Weeks = tuple[Interactions, Interactions, HeldOut]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="how often (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one seed, few factors and epochs, for correctness only")
    parser.add_argument("--threads", type=int, default=0, help="training threads; 0 takes every core")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    options = AlsOptions(factors=8, epochs=2) if arguments.quick else AlsOptions()
    epochs, seeds = (_WARM_EPOCHS[:1], 1) if arguments.quick else (_WARM_EPOCHS, arguments.seeds)
    weeks = two_weeks()
    train(weeks[1], replace(options, factors=8, epochs=1))  # kernels are loaded before the clock runs
    rows = []
    for seed in range(options.seed, options.seed + seeds):
        rows += measure(weeks, replace(options, threads=arguments.threads, seed=seed), epochs)
    print_table(rows)
    if arguments.json is not None:
        write_rows(arguments.json, rows)


def measure(weeks: Weeks, options: AlsOptions, warm_epochs: tuple[int, ...]) -> list[dict]:
    """One row per training: yesterday's, another of yesterday's by chance, today's cold, today's warm ones."""
    yesterday, today, held_out = weeks
    old, old_seconds = timed(yesterday, options)
    previous = Previous("yesterday", yesterday.item_ids, old.item_vectors, None)
    chance, chance_seconds = timed(yesterday, replace(options, seed=options.seed + 1))
    cold, cold_seconds = timed(today, options)
    rows = [
        row("yesterday", "cold", yesterday, old, old_seconds, old.losses[-1]),
        row("yesterday", "cold, other seed", yesterday, chance, chance_seconds, old.losses[-1])
        | drift(previous, yesterday, chance),
        row("today", "cold", today, cold, cold_seconds, cold.losses[-1])
        | drift(previous, today, cold)
        | quality(today, held_out, cold),
    ]
    for epochs in warm_epochs:
        warm, seconds = timed(today, replace(options, epochs=epochs), previous)
        rows.append(
            row("today", "warm", today, warm, seconds, cold.losses[-1])
            | drift(previous, today, warm)
            | quality(today, held_out, warm)
        )
    return rows


def two_weeks() -> Weeks:
    """All but the last two weeks, all but the last one, and what is new to the users of the latter in the last."""
    shop = bundled_shop()
    events = f"read_parquet('{shop.events}')"
    age = f"(SELECT max(InvoiceDate) FROM {events}) - InvoiceDate"
    parts = {}
    with tempfile.TemporaryDirectory() as directory, duckdb.connect() as connection:
        for name, condition in {
            "yesterday": f"{age} > INTERVAL 2 WEEK",
            "today": f"{age} > INTERVAL 1 WEEK",
            "next": f"{age} <= INTERVAL 1 WEEK",
        }.items():
            path = Path(directory) / f"{name}.parquet"
            connection.execute(f"COPY (SELECT * FROM {events} WHERE {condition}) TO '{path}'")
            parts[name] = read_interactions([str(path)], shop.columns, cleaning=shop.cleaning)
    return parts["yesterday"], parts["today"], only_new(hold_out(parts["today"], parts["next"]), parts["today"])


def timed(data: Interactions, options: AlsOptions, previous: Previous | None = None) -> tuple[Embeddings, float]:
    started = time.perf_counter()
    start = None if previous is None else initial_items(previous, data.item_ids, options)
    embeddings = train(data, options, initial_items=start)
    return embeddings, time.perf_counter() - started


def row(data: str, start: str, interactions: Interactions, result: Embeddings, seconds: float, goal: float) -> dict:
    return {
        "data": data,
        "start": start,
        "seed": result.options.seed,
        "factors": result.options.factors,
        "epochs": len(result.losses),
        "entries": interactions.n_entries,
        "seconds": seconds,
        "loss": result.losses[-1],
        "loss_relative": result.losses[-1] / goal - 1,
    }


def drift(previous: Previous, interactions: Interactions, result: Embeddings) -> dict:
    """The median cosine to yesterday's exported vectors, over the items of both, with and without alignment."""
    alignment = align(previous, interactions.item_ids, result.item_vectors)
    assert alignment is not None
    old_rows = previous.item_ids.rows_of(interactions.item_ids.strings)
    common = old_rows >= 0
    new, old = result.item_vectors[common], previous.item_vectors[old_rows[common]]
    return {
        "common_items": int(common.sum()),
        "new_items": int((~common).sum()),
        "cosine": median_cosine(exported(new, alignment.rotation), old),
        "cosine_unaligned": median_cosine(new, old),
    }


def quality(interactions: Interactions, held_out: HeldOut, result: Embeddings) -> dict:
    scorer = Scorer(result.user_vectors, result.item_vectors)
    found = rank_catalogue(scorer, interactions.by_user, held_out, parse_metrics(_METRIC))
    return {_METRIC: found[_METRIC], "test_users": len(held_out.users)}


def print_table(rows: list[dict]) -> None:
    print(
        f"{'data':9} {'start':16} {'epochs':>6} {'seconds':>7} {'loss':>9} {_METRIC:>9} {'least':>6} {'most':>6} "
        f"{'cosine':>6} {'unaligned':>9}"
    )
    for (data, start, epochs), group in by_training(rows):
        recalls = [each[_METRIC] for each in group if _METRIC in each]
        recall, least, most = (f"{of(recalls):.4f}" if recalls else "" for of in (statistics.mean, min, max))
        cosine, unaligned = (mean_of(group, name) for name in ("cosine", "cosine_unaligned"))
        seconds, loss = (statistics.mean(each[name] for each in group) for name in ("seconds", "loss_relative"))
        print(
            f"{data:9} {start:16} {epochs:6} {seconds:7.2f} {loss:+9.5f} {recall:>9} {least:>6} {most:>6} "
            f"{cosine:>6} {unaligned:>9}"
        )
    seeds = {each["seed"] for each in rows if each["data"] == "today"}
    print(f"means of {len(seeds)} seeds, {rows[0]['factors']} factors")


def by_training(rows: list[dict]) -> list[tuple[tuple, list[dict]]]:
    """The rows of all seeds by what was trained, in the order of the first seed."""
    groups: dict[tuple, list[dict]] = {}
    for each in rows:
        groups.setdefault((each["data"], each["start"], each["epochs"]), []).append(each)
    return list(groups.items())


def mean_of(group: list[dict], name: str) -> str:
    numbers = [each[name] for each in group if name in each]
    return f"{statistics.mean(numbers):.4f}" if numbers else ""


if __name__ == "__main__":
    main()
