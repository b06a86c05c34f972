"""The trainer's commands. Each class is one command: its fields are the options, `run` does it.

As in engine.commands, whatever is heavy is imported inside `run`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.configuration import as_mapping, option
from engine.errors import UsageError
from trainer.options import EVENTS_HELP, AlsOptions, EventOptions, TrainOptions

if TYPE_CHECKING:
    from trainer.evaluate import Scorer
    from trainer.interactions import Interactions
    from trainer.metrics import Metric

    Rank = Callable[[Scorer, Sequence[Metric]], dict[str, float]]

_log = logging.getLogger("nearcart")


@dataclass(frozen=True, kw_only=True)
class Train(TrainOptions):
    """Learn vectors from events, build and measure the index, and publish a release.

    Every row that was dropped is reported, with the reason. Nothing is published unless all of it succeeds.
    """

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
        from trainer.evaluate import Scorer, popularity_scorer
        from trainer.metrics import parse_metrics
        from trainer.progress import training_progress

        metrics = parse_metrics(self.metrics or self._default_metrics())
        train = self._read(self.train)
        rank, counts = self._protocol(train)
        with training_progress(quiet=self.quiet) as show:
            embeddings = train_als(train, self.als(), show)
        results = {
            "metrics": rank(Scorer(embeddings.user_vectors, embeddings.item_vectors), metrics),
            "popularity": rank(popularity_scorer(train), metrics),
        }
        if self.json:
            print(json.dumps({**results, **counts, "configuration": as_mapping(self)}, indent=1))
            return
        width = max(len(metric.name) for metric in metrics)
        print(f"{'':<{width}}  {'als':>8}  {'popular':>8}")
        for metric in metrics:
            model, popular = results["metrics"][metric.name], results["popularity"][metric.name]
            print(f"{metric.name:<{width}}  {model:8.4f}  {popular:8.4f}")
        print(", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()))

    def _default_metrics(self) -> str:
        return "hr@10,ndcg@10" if self.candidates else "recall@20,recall@20/min,ndcg@20,precision@20,mrr@20,hr@20"

    def _protocol(self, train: Interactions) -> tuple[Rank, dict[str, int]]:
        """How to rank by the given files, which are read here, and how much there is to rank."""
        from trainer.candidates import read_candidates
        from trainer.evaluate import check_cases, hold_out, match_cases, rank_candidates, rank_catalogue

        test = self._read(self.test) if self.test else None
        if self.candidates is not None:
            candidates = read_candidates(self.candidates)
            if test is not None:
                check_cases(candidates, test)
            cases = match_cases(train, candidates)
            return lambda scorer, metrics: rank_candidates(scorer, cases, metrics), {
                "cases": len(cases.users),
                "cases_of_unknown_users": cases.n_unknown_users,
            }
        assert test is not None, "run refuses to go on without either"
        held_out = hold_out(train, test)
        return lambda scorer, metrics: rank_catalogue(scorer, train.by_user, held_out, metrics), {
            "users": len(held_out.users),
            "unknown_users": held_out.n_unknown_users,
            "unknown_items": held_out.n_unknown_items,
        }

    def _read(self, sources: tuple[str, ...]) -> Interactions:
        from trainer.interactions import read_interactions

        interactions = read_interactions(
            sources,
            self.columns(),
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
