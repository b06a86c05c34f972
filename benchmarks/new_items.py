"""How often are items found that were born after the training and folded in, beside a training that has them?

    python -m benchmarks.new_items [--threads N] [--quick] [--json FILE]

The bundled shop at several moments: it is trained on the events until then ("before"), the next tenth of all events is
folded in with one, two, ... passes ("folded in"), and a training on both ("trained") is what that stands for. From the
carts of the events behind these, items are hidden one at a time: every item that had no event before, and a random
tenth of the others. A hit is a hidden item in the first 20 that the rest of its cart is answered with. A row is one
moment and model; the table adds the hits of all moments up. Seconds are those of all but the index.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.raw_rows import write_rows
from engine.plan import IndexPlan
from engine.queries import CartQuery
from engine.release import Release
from engine.repository import Repository
from engine.retrieval import Snapshot
from trainer.new_items import fold_events_in
from trainer.options import TrainOptions
from trainer.shop import bundled_shop
from trainer.training import train_release

_MOMENTS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Shares of the events that are before."""
_SINCE, _TEST = 0.1, 0.08
_PASSES = (1, 2, 3, 5, 9)
_PLACES = 20
_INDEX = "building and measuring the index"


@dataclass(frozen=True)
class Moment:
    """Files of events by name, the ids known before, and the carts behind."""

    before: float
    files: dict[str, Path]
    known: set[str]
    carts: list[list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one moment, few factors, for correctness only")
    parser.add_argument("--threads", type=int, default=0, help="training threads; 0 takes every core")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    moments, passes = (_MOMENTS[:1], _PASSES[:1]) if arguments.quick else (_MOMENTS, _PASSES)
    options = {"threads": arguments.threads, **({"factors": 8, "epochs": 2} if arguments.quick else {})}
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for moment in made_moments(Path(directory), moments):
            rows += measure(moment, Path(directory) / f"{moment.before}", options, passes)
    print_table(rows)
    if arguments.json is not None:
        write_rows(arguments.json, rows)


def made_moments(folder: Path, shares: tuple[float, ...]) -> Iterator[Moment]:
    """Cut the bundled shop at each of them."""
    shop = bundled_shop()
    fees = shop.cleaning.non_product_pattern
    bought = f"CustomerID IS NOT NULL AND Quantity > 0 AND NOT regexp_full_match(StockCode, '{fees}', 'i')"
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE events AS FROM read_parquet('{shop.events}')")
        for share in shares:
            cuts = [share, share + _SINCE, share + _SINCE + _TEST]
            ((times,),) = connection.execute("SELECT quantile_disc(InvoiceDate, ?) FROM events", [cuts]).fetchall()
            first, second, last = (f"TIMESTAMP '{moment}'" for moment in times)
            files = {}
            for name, condition in {
                "before": f"InvoiceDate < {first}",
                "since": f"InvoiceDate >= {first} AND InvoiceDate < {second}",
                "trained": f"InvoiceDate < {second}",
            }.items():
                files[name] = folder / f"{name}-{share}.parquet"
                connection.execute(f"COPY (FROM events WHERE {condition}) TO '{files[name]}' (FORMAT parquet)")
            known = connection.execute(
                f"SELECT DISTINCT StockCode FROM events WHERE InvoiceDate < {first} AND {bought}"
            ).fetchall()
            carts = connection.execute(
                f"""SELECT list(DISTINCT StockCode ORDER BY StockCode) FROM events
                WHERE InvoiceDate >= {second} AND InvoiceDate < {last} AND {bought}
                GROUP BY InvoiceNo HAVING count(DISTINCT StockCode) > 1 ORDER BY InvoiceNo"""
            ).fetchall()
            yield Moment(share, files, {id_ for (id_,) in known}, [cart for (cart,) in carts])


def measure(moment: Moment, folder: Path, options: dict, passes: tuple[int, ...]) -> list[dict]:
    """A row for each model of one moment."""
    rows = []
    for name in ("before", "trained"):
        release, seconds = trained(moment.files[name], folder / name, options)
        rows.append(row(moment, name, 0, release, seconds))
    repository = Repository(folder / "before")
    base = repository.current()
    assert base is not None
    for number in passes:
        release, seconds = folded(moment, repository, base, number)
        rows.append(row(moment, "folded in", number, release, seconds))
    return rows


def trained(events: Path, releases: Path, options: dict) -> tuple[Release, float]:
    shop = bundled_shop()
    started = time.perf_counter()
    release_id = train_release(
        TrainOptions(
            events=(str(events),),
            releases=releases,
            non_product_pattern=shop.cleaning.non_product_pattern,
            factory="Pruned",
            quiet=True,
            **{f"{role}_column": name for role, name in vars(shop.columns).items()},
            **options,
        )
    )
    return Release(Repository(releases).path(release_id)), time.perf_counter() - started


def folded(moment: Moment, repository: Repository, base: str, passes: int) -> tuple[Release, float]:
    started, steps = time.perf_counter(), {}
    release_id, _ = fold_events_in(
        repository,
        base,
        [str(moment.files["since"])],
        None,
        IndexPlan(),
        0.9,
        promote=False,
        seconds=0,
        on_step=lambda text: steps.setdefault(text, time.perf_counter()),
        passes=passes,
    )
    return Release(repository.path(release_id)), steps[_INDEX] - started


def row(moment: Moment, model: str, passes: int, release: Release, seconds: float) -> dict:
    born, known = hits(moment, Snapshot.open(release.directory))
    return {
        "before": moment.before,
        "model": model,
        "passes": passes,
        "factors": release.manifest["parts"][0]["memory"]["factors"],
        "items": release.manifest["sizes"]["items"],
        "new_items": release.manifest.get("folded_in", {}).get("items", 0),
        "seconds": seconds,
        "born": len(born),
        "born_hits": sum(born),
        "known": len(known),
        "known_hits": sum(known),
    }


def hits(moment: Moment, snapshot: Snapshot) -> tuple[list[bool], list[bool]]:
    """Whether each hidden item was found: of those born since, and of a tenth of the others."""
    generator = np.random.default_rng(0)
    born: list[bool] = []
    known: list[bool] = []
    for cart in moment.carts:
        for item in cart:
            group = known if item in moment.known else born
            if group is known and generator.random() >= 0.1:
                continue
            query = CartQuery(tuple(each for each in cart if each != item), limit=_PLACES)
            group.append(item in snapshot.recommend_for_carts([query])[0].item_ids)
    return born, known


def print_table(rows: list[dict]) -> None:
    print(f"{'model':10} {'passes':>6} {'seconds':>8} {'born since':>11} {'known before':>13}   hit rate @{_PLACES}")
    for model, passes in dict.fromkeys((each["model"], each["passes"]) for each in rows):
        group = [each for each in rows if (each["model"], each["passes"]) == (model, passes)]
        born, known = (
            sum(each[f"{name}_hits"] for each in group) / max(1, sum(each[name] for each in group))
            for name in ("born", "known")
        )
        seconds = float(np.mean([each["seconds"] for each in group]))
        print(f"{model:10} {passes or '':>6} {seconds:8.2f} {born:11.4f} {known:13.4f}")
    first = [each for each in rows if (each["model"], each["passes"]) == (rows[0]["model"], rows[0]["passes"])]
    totals = ", ".join(f"{sum(each[name] for each in first):,} {name}" for name in ("born", "known"))
    print(f"{len(first)} moments, {totals} items hidden, {rows[0]['factors']} factors")


if __name__ == "__main__":
    main()
