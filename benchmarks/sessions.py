"""Which item comes next in a session, and in a user's life: do parts that know the order reach the published numbers?

    python -m benchmarks.sessions [--data DIR] [--quick] [--seed S] [--json FILE]

Two public sets, looked for in --data, NEARCART_DATA or ../shared/data; what is absent is named and left out:

- diginetica: the next click after each prefix of the test sessions, all 43,097 items ranked, those of the prefix too
  (hr@20, which its papers call P@20, and mrr@20). What each part counts is found on prefixes of the last 7% of the
  training sessions, by models of the sessions before them.
- Beauty: the last item of each user, all items but the user's others ranked (hr@10, ndcg@10), asked with all but the
  last. What each part counts is found on the last but one, by models of what came before. `strict` models learn
  without the last two of each user, as those of the validation do; the others know the last but one.

Events are written to a Parquet file and read as any shop's are: a session or user, an item, a time that follows the
order. Diginetica's file has no times: its sessions are spread evenly over 150 days, in the order of the file. All
options are the defaults of `nearcart train`; nothing is tuned but the weights. Differences are of the blend to each.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from benchmarks.asked import Asked, learn, measured, newest_of, one_to_find, only, scorer_of, weigh, with_found
from benchmarks.comparisons import comparisons, print_comparisons
from benchmarks.raw_rows import write_rows
from trainer import als
from trainer.blending import Found
from trainer.cases import Cases
from trainer.interactions import Interactions, read_interactions
from trainer.learned import Learned
from trainer.metrics import Metric, parse_metrics
from trainer.model_options import ALS, BLEND, NEIGHBOURS, PARTS_OF, REGRESSION, SESSIONS, ModelOptions
from trainer.options import AlsOptions

MODELS = (BLEND, NEIGHBOURS, SESSIONS, REGRESSION, ALS)
VALIDATION_SHARE = 0.07
MOST_CASES = 4000
"""Of the validation, drawn by the seed."""
_FIRST_SECONDS = 1_451_606_400
_SECONDS_BETWEEN = 70
"""Of the starts of two sessions: 186,670 of them last 151 days, as Diginetica's did."""

Items = NDArray[np.int32]


@dataclass(frozen=True)
class SessionSet:
    """What is asked of models while they are weighed, and of those that are measured, by name."""

    name: str
    metrics: tuple[Metric, ...]
    validation: Asked
    tests: dict[str, Asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEARCART_DATA", "../shared/data")))
    parser.add_argument("--quick", action="store_true", help="made sessions, for correctness only")
    parser.add_argument("--seed", type=int, default=42, help="of everything random")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    rows = []
    if arguments.quick:
        rows += measured_on(made_sessions(arguments.seed), arguments.seed)
    else:
        for read in (diginetica, beauty):
            asked = read(arguments.data, arguments.seed)
            if asked is not None:
                rows += measured_on(asked, arguments.seed)
    if arguments.json is not None:
        write_rows(arguments.json, rows)


def measured_on(asked: SessionSet, seed: int) -> list[dict]:
    rows, found = [], {}
    every = learned_all(asked.validation.train, seed)
    cases = asked.validation.repeats or asked.validation.cases
    for model in MODELS:
        found[model] = weigh(only(every, model), asked.validation)
        numbers = measured_by(only(every, model), found[model], asked.validation.train, cases, asked.metrics)
        values = {name: float(each.mean()) for name, each in numbers.items()}
        weights = {name: setting.weight.user for name, setting in found[model].settings.items()}
        recencies = {name: setting.recency.user for name, setting in found[model].settings.items()}
        rows.append({"set": asked.name, "model": model, "row": "validation", "weights": weights} | values)
        rows[-1] |= {"recencies": recencies, "alone": {kind: dict(each) for kind, each in found[model].metrics.items()}}
        told = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        print(f"{asked.name}: {model}: {told} on the validation; weights {weights}, recencies {recencies}", flush=True)
    for name, test in asked.tests.items():
        every = learned_all(test.train, seed)
        per_model = {
            model: [measured_by(only(every, model), found[model], test.train, test.cases, asked.metrics)]
            for model in MODELS
        }
        print(f"\n{name}: {test.train.n_users:,} users or sessions, {test.train.n_items:,} items")
        of_test = comparisons({"set": name}, per_model, seed)
        print_comparisons(of_test)
        rows += of_test
    return rows


def learned_all(train: Interactions, seed: int) -> Learned:
    """All parts, with the options' defaults."""
    return learn(train, PARTS_OF[BLEND], ModelOptions(), lambda: Learned(als.train(train, AlsOptions(seed=seed))))


def measured_by(
    learned: Learned, found: Found, train: Interactions, cases: Cases, metrics: Sequence[Metric]
) -> dict[str, NDArray[np.float64]]:
    return measured(scorer_of(with_found(learned, found), cases, train.n_items), cases, metrics)


def diginetica(data: Path, seed: int) -> SessionSet | None:
    folder = data / "sessions" / "diginetica"
    if not folder.is_dir():
        print(f"{folder} is absent: its sessions are not measured")
        return None
    sessions = lists_of(folder / "train.parquet", "items")
    targets = parquet.read_table(folder / "test.parquet")["next"].to_numpy()
    prefixes = lists_of(folder / "test.parquet", "prefix")
    return of_sessions("diginetica", sessions, prefixes, targets, parse_metrics("hr@20,mrr@20"), seed)


def of_sessions(
    name: str,
    sessions: Sequence[Items],
    prefixes: Sequence[Items],
    targets: Items,
    metrics: tuple[Metric, ...],
    seed: int,
) -> SessionSet:
    """The last sessions are the validation: what follows each of their prefixes."""
    n_before = len(sessions) - round(len(sessions) * VALIDATION_SHARE)
    before, whole = read_ordered(sessions[:n_before]), read_ordered(sessions)
    places = [(session, end) for session in range(n_before, len(sessions)) for end in range(1, len(sessions[session]))]
    generator = np.random.default_rng(seed)
    drawn = np.sort(generator.choice(len(places), min(MOST_CASES, len(places)), replace=False))
    shown = [sessions[places[i][0]][: places[i][1]] for i in drawn.tolist()]
    following = np.array([sessions[places[i][0]][places[i][1]] for i in drawn.tolist()])
    is_new = np.flatnonzero([item not in prefix for item, prefix in zip(following.tolist(), shown, strict=True)])
    new = cases_of(before, [shown[i] for i in is_new.tolist()], following[is_new], may_return=False)
    validation = Asked(before, new, cases_of(before, shown, following, may_return=True))
    return SessionSet(
        name, metrics, validation, {name: Asked(whole, cases_of(whole, prefixes, targets, may_return=True))}
    )


def beauty(data: Path, seed: int) -> SessionSet | None:
    path = data / "s3rec" / "Beauty.txt.zst"
    if not path.is_file():
        print(f"{path} is absent: its users are not measured")
        return None
    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
        lines = stream.read().decode().splitlines()
    users = [np.array(line.split()[1:], dtype=np.int32) for line in lines]
    return of_users("beauty", users, parse_metrics("hr@10,ndcg@10"), seed)


def of_users(name: str, users: Sequence[Items], metrics: tuple[Metric, ...], seed: int) -> SessionSet:
    """The last item of each is the test, the last but one the validation."""
    strict, known = read_ordered([items[:-2] for items in users]), read_ordered([items[:-1] for items in users])
    drawn = np.sort(np.random.default_rng(seed).choice(len(users), min(MOST_CASES, len(users)), replace=False)).tolist()
    last_but_one = np.array([users[i][-2] for i in drawn])
    validation = Asked(strict, cases_of(strict, [users[i][:-2] for i in drawn], last_but_one, may_return=False))
    shown, last = [items[:-1] for items in users], np.array([items[-1] for items in users])
    tests = {
        f"{name} strict": Asked(strict, cases_of(strict, shown, last, may_return=False)),
        name: Asked(known, cases_of(known, shown, last, may_return=False)),
    }
    return SessionSet(name, metrics, validation, tests)


def cases_of(train: Interactions, shown: Sequence[Items], targets: Items, *, may_return: bool) -> Cases:
    """Items by their numbers, in the order in which they came."""
    numbers = np.array([int(train.item_ids[row]) for row in range(train.n_items)])
    highest = max(int(numbers.max()), int(targets.max()), *(int(items.max()) for items in shown))
    rows = np.full(highest + 1, -1, dtype=np.int32)
    rows[numbers] = np.arange(train.n_items)
    evidence = [newest_of(rows[items], np.arange(len(items))) for items in shown]
    return one_to_find("user", evidence, rows[targets], train.n_items, may_return=may_return)


def read_ordered(sequences: Sequence[Items]) -> Interactions:
    """A user for each sequence, and its items one second after the other."""
    sizes = np.array([len(items) for items in sequences])
    users = np.repeat(np.arange(len(sequences)), sizes)
    places = np.arange(len(users)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    columns = {
        "user_id": users,
        "item_id": np.concatenate(sequences),
        "timestamp": _FIRST_SECONDS + _SECONDS_BETWEEN * users + places,
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "events.parquet"
        parquet.write_table(pa.table(columns), path)
        return read_interactions([str(path)])


def lists_of(path: Path, column: str) -> list[Items]:
    lists = parquet.read_table(path)[column].combine_chunks()
    bounds = lists.offsets.to_numpy()
    return np.split(lists.flatten().to_numpy(), bounds[1:-1] - bounds[0])


def made_sessions(seed: int) -> SessionSet:
    """Sessions that walk around a ring of items."""
    generator = np.random.default_rng(seed)
    walks = [
        (generator.integers(60) + np.cumsum(generator.integers(1, 3, generator.integers(3, 9)))) % 60
        for _ in range(600)
    ]
    sessions = [(1 + walk).astype(np.int32) for walk in walks]
    shown, tests = sessions[:500], sessions[500:]
    prefixes, targets = [walk[:-1] for walk in tests], np.array([walk[-1] for walk in tests])
    return of_sessions("made", shown, prefixes, targets, parse_metrics("hr@20,mrr@20"), seed)


if __name__ == "__main__":
    main()
