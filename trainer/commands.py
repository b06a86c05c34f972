"""The trainer's commands. Each class is one command: its fields are the options, `run` does it.

As in engine.commands, whatever is heavy is imported inside `run`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.configuration import as_mapping, option
from engine.errors import UsageError
from trainer.als_options import AlsOptions

if TYPE_CHECKING:
    from trainer.cleaning import Cleaning
    from trainer.events import EventColumns
    from trainer.interactions import Interactions

_log = logging.getLogger("nearcart")

EVENTS_HELP = "Parquet, CSV or JSON lines (also .gz, .zst): files, globs or directories"


@dataclass(frozen=True, kw_only=True)
class EventOptions:
    """How events are read and cleaned."""

    user_column: str = option("column of the user", "user_id", metavar="NAME")
    item_column: str = option("column of the item", "item_id", metavar="NAME")
    timestamp_column: str = option("column of the time", "timestamp", metavar="NAME")
    timestamp_format: str = option(
        "format of times that are text but not ISO 8601, such as '%d.%m.%Y %H:%M'", "", metavar="FORMAT"
    )
    event_column: str = option("column of the kind of event", "event", metavar="NAME")
    quantity_column: str = option("column of the quantity; negative ones are returns", "quantity", metavar="NAME")
    price_column: str = option("column of the price", "price", metavar="NAME")
    basket_column: str = option("column of the basket or invoice", "basket_id", metavar="NAME")
    event_weights: str = option("weights by kind of event, such as view=0.2,purchase=1", "", metavar="LIST")
    weighting: str = option("weight of an entry: see docs/user-guide.md", "log", choices=("binary", "count", "log"))
    non_product_pattern: str | None = option(
        "regular expression of item ids that are fees, not products; '' keeps all", None, metavar="REGEX"
    )
    memory_limit: str = option("memory for reading events; beyond it, temporary files", "2GB", metavar="SIZE")
    quiet: bool = option("no progress; the report of dropped rows remains", False)

    def columns(self) -> EventColumns:
        """The column mapping."""
        from trainer.events import EventColumns

        names = (field.name for field in dataclasses.fields(EventColumns))
        return EventColumns(**{name: getattr(self, f"{name}_column") for name in names})

    def cleaning(self) -> Cleaning:
        """The cleaning rules. Raises UsageError."""
        from trainer.cleaning import Cleaning

        weights = {}
        for entry in filter(None, (each.strip() for each in self.event_weights.split(","))):
            kind, _, number = entry.rpartition("=")
            try:
                weights[kind.strip()] = float(number)
            except ValueError:
                raise UsageError(f"--event-weights: found {entry!r}, expected KIND=NUMBER, such as view=0.2") from None
        rules = Cleaning(event_weights=weights, weighting=self.weighting)  # type: ignore[arg-type]
        if self.non_product_pattern is None:
            return rules
        return dataclasses.replace(rules, non_product_pattern=self.non_product_pattern)


@dataclass(frozen=True, kw_only=True)
class Train(AlsOptions, EventOptions):
    """Learn vectors from events, build and measure the index, and publish a release.

    Every row that was dropped is reported, with the reason. Nothing is published unless all of it succeeds.
    """

    events: tuple[str, ...] = option(EVENTS_HELP, positional=True, metavar="EVENTS")
    releases: Path = option("directory of releases", metavar="DIR")
    items: Path | None = option(
        "items file: item_id, optionally title, category, price, available", None, metavar="FILE"
    )
    title_column: str | None = option("column of the events that names the item", None, metavar="NAME")
    recall: float = option("recall@20 that the index must keep, from 0 to 1", 0.99, metavar="R", minimum=0, maximum=1)
    factory: str = option("FAISS factory string of the index", "Flat", metavar="STRING")
    search_parameters: str = option("FAISS search parameters, such as 'efSearch=256'", "", metavar="STRING")
    promote: bool = option("make the release live", True)

    def run(self) -> None:
        """Publish a release and print its id. Raises NearcartError."""
        from trainer.training import train_release

        print(train_release(self))


@dataclass(frozen=True, kw_only=True)
class Evaluate(AlsOptions, EventOptions):
    """Fit on some events and measure the ranking of others, beside a most-popular ranking.

    Training items are left out of each user's ranking. Also reads headerless "user item rating" and "a user a line,
    then its items" files. Recall@k divides by the test items, recall@k/min by min(k, test items).
    """

    train: tuple[str, ...] = option("events to fit on: " + EVENTS_HELP, metavar="EVENTS")
    test: tuple[str, ...] = option("events to rank; not needed with --candidates", (), metavar="EVENTS")
    candidates: Path | None = option(
        "rank each test item among its own candidates: the NCF .test.negative form", None, metavar="FILE"
    )
    metrics: str | None = option(
        "such as recall@20,recall@20/min,ndcg@20,precision@20,mrr@20,hr@20 (that is the default; hr@10,ndcg@10 with "
        "--candidates)",
        None,
        metavar="LIST",
    )
    json: bool = option("print JSON instead of a table", False)

    def run(self) -> None:
        """Print the metrics of the model and of popularity. Raises NearcartError."""
        if self.candidates is None and not self.test:
            raise UsageError("evaluate needs --test EVENTS, or --candidates FILE")
        from trainer.als import train_als
        from trainer.candidates import read_candidates
        from trainer.evaluate import Scorer, check_cases, hold_out, popularity_scorer, rank_candidates, rank_catalogue
        from trainer.metrics import parse_metrics
        from trainer.progress import Steps, training_progress

        default = (
            "recall@20,recall@20/min,ndcg@20,precision@20,mrr@20,hr@20" if self.candidates is None else "hr@10,ndcg@10"
        )
        metrics = parse_metrics(self.metrics or default)
        steps = Steps(quiet=self.quiet)
        train = self._read(self.train, self.columns(), steps)
        test = self._read(self.test, self.columns(), steps) if self.test else None
        candidates = None if self.candidates is None else read_candidates(self.candidates)
        if test is not None and candidates is not None:
            check_cases(candidates, test)
        with training_progress(quiet=self.quiet) as show:
            embeddings = train_als(train, als_options(self), show)
        scorers = {
            "metrics": Scorer(embeddings.user_vectors, embeddings.item_vectors),
            "popularity": popularity_scorer(train),
        }
        steps("ranking")
        report: dict[str, object] = {}
        if candidates is not None:
            results = {name: rank_candidates(scorer, train, candidates, metrics) for name, scorer in scorers.items()}
            report["cases"] = len(candidates.user_ids)
        elif test is not None:
            held_out = hold_out(train, test)
            results = {
                name: rank_catalogue(scorer, train.by_user, held_out, metrics) for name, scorer in scorers.items()
            }
            report |= {
                "users": len(held_out.users),
                "unknown_users": held_out.n_unknown_users,
                "unknown_items": held_out.n_unknown_items,
            }
        if self.json:
            print(json.dumps({**results, **report, "configuration": as_mapping(self)}, indent=1))
            return
        width = max(len(metric.name) for metric in metrics)
        print(f"{'':<{width}}  {'als':>8}  {'popular':>8}")
        for metric in metrics:
            model, popular = results["metrics"][metric.name], results["popularity"][metric.name]
            print(f"{metric.name:<{width}}  {model:8.4f}  {popular:8.4f}")
        print(", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in report.items()))

    def _read(self, sources: tuple[str, ...], columns: EventColumns, steps: object) -> Interactions:
        from trainer.interactions import read_interactions

        interactions = read_interactions(
            sources,
            columns,
            cleaning=self.cleaning(),
            threads=self.threads,
            memory_limit=self.memory_limit,
            timestamp_format=self.timestamp_format,
        )
        _log.info("%s\n%s", ", ".join(sources), interactions.report.table())
        return interactions


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train on the bundled shop, publish, serve, and ask a user query and a cart query over gRPC."""

    keep: Path | None = option("publish into this directory of releases, and keep it", None, metavar="DIR")
    limit: int = option("items to ask for", 10, metavar="K", minimum=1)

    def run(self) -> None:
        """Print the answers with product names. Raises NearcartError."""
        from trainer.demo import run_demo

        run_demo(self.keep, self.limit)


def als_options(command: AlsOptions) -> AlsOptions:
    """The ALS options alone of a command that has them among others."""
    return AlsOptions(**{field.name: getattr(command, field.name) for field in dataclasses.fields(AlsOptions)})
