"""The trainer's commands. Each class is one command: its fields are the options, `run` does it.

As in engine.commands, whatever is heavy is imported inside `run`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from engine.configuration import as_mapping, option
from engine.errors import NearcartError, UsageError
from trainer.model_options import ALS, PARTS_OF, TASKS
from trainer.options import EVENTS_HELP, EventOptions, LearnOptions, TrainOptions, TuneOptions

if TYPE_CHECKING:
    from trainer.als import Embeddings
    from trainer.cleaning import Cleaning
    from trainer.interactions import Interactions
    from trainer.learned import Learned
    from trainer.metrics import Measured, Metric, Ranking

    Rank = Callable[[Learned], list[Ranking]]

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
class Evaluate(LearnOptions):
    """Fit on some events and measure the ranking of others, beside a most-popular ranking.

    Training items are left out of each user's ranking. Also reads headerless "user item rating" and "a user a line,
    then its items" files. Recall@k divides by the test items, recall@k/min by min(k, test items).
    """

    train: tuple[str, ...] = option("events to fit on: " + EVENTS_HELP, metavar="EVENTS")
    test: tuple[str, ...] = option("events to rank; not needed with --candidates or --split", (), metavar="EVENTS")
    candidates: Path | None = option(
        "rank each test item among its own candidates: the NCF .test.negative form", None, metavar="FILE"
    )
    split: str | None = option(
        "cut the test out of --train: random:0.2, last, time:28d, basket, or users:0.1 (held-out users, folded in)",
        None,
        metavar="RULE",
    )
    task: str = option(
        "what is asked: next (what new to a user is taken next), again (what is taken again), repeats (both), cart "
        "(one item of a basket is hidden), half-cart (half of them are), session (each next item of a basket)",
        "next",
        choices=TASKS,
    )
    metrics: str | None = option(
        "such as recall@20,recall@20/min,ndcg@20,precision@20,mrr@20,hr@20 (that is the default; hr@10,ndcg@10 with "
        "--candidates); also map@k and, without --candidates, revenue@k, novelty@k, diversity@k, coverage@k",
        None,
        metavar="LIST",
    )
    json: bool = option("print JSON instead of a table", False)

    def run(self) -> None:
        """Print the metrics of the model and of popularity, and how far to trust them. Raises NearcartError."""
        if self.split is not None and (self.test or self.candidates is not None):
            raise UsageError("--split cuts the test out of --train: leave --test and --candidates away")
        if self.split is None and self.candidates is None and not self.test:
            raise UsageError("evaluate needs --test EVENTS, or --candidates FILE, or --split RULE")
        if self.candidates is not None and self.task != "next":
            raise UsageError(f"--candidates names what each user is asked for: leave --task {self.task} away")
        from trainer import als
        from trainer.learned import Learned
        from trainer.metrics import measure, parse_metrics
        from trainer.models import learn, warn_of_what_has_no_effect
        from trainer.progress import Steps, training_progress

        metrics = parse_metrics(self.metrics or self._default_metrics())
        warn_of_what_has_no_effect(self)
        if ALS not in PARTS_OF[self.model]:
            Learned(None).require_vectors(metrics)
        train, history, test = self._read_parts()
        if self.candidates is not None:
            rank, counts = self._on_candidates(self.candidates, train, test, metrics)
        else:
            assert test is not None, "refused above"
            rank, counts = self._on_test(train, history, test, metrics)

        def vectors() -> Embeddings:
            with training_progress(quiet=self.quiet) as show:
                return als.train(train, self.als(), on_progress=show)

        cut = partial(self.split_events, self.train, within=self.split or "")
        learned = learn(train, self, vectors, cut, Steps(quiet=self.quiet))
        model, popularity = (measure(metrics, ranking) for ranking in rank(learned))
        self._print(model, popularity, counts)

    def _default_metrics(self) -> str:
        return "hr@10,ndcg@10" if self.candidates else "recall@20,recall@20/min,ndcg@20,precision@20,mrr@20,hr@20"

    def _on_test(
        self, train: Interactions, history: Interactions | None, test: Interactions, metrics: Sequence[Metric]
    ) -> tuple[Rank, dict[str, int]]:
        """How to rank the catalogue for the cases of the task, and how many there are."""
        from trainer.cases import cases_of
        from trainer.evaluate import catalogue_ranking, check_metrics, known_items
        from trainer.parts_scorer import case_scorer, popular_scorer

        cases = cases_of(self.task, train, test, history, seed=self.seed)
        held_out = cases.held_out
        check_metrics(metrics, held_out)
        depth = max(metric.k for metric in metrics)

        def rank(learned: Learned) -> list[Ranking]:
            learned.require_vectors(metrics)
            catalogue = known_items(train, held_out, learned.item_vectors)
            return [
                catalogue_ranking(scorer, cases.excluded, held_out, depth, catalogue=catalogue, threads=self.threads)
                for scorer in (case_scorer(learned, cases), popular_scorer(train, cases))
            ]

        whose = "users" if self.task in ("next", "again", "repeats") else "queries"
        counts = {whose: len(held_out.users)}
        if whose == "users":
            counts |= {"unknown_users": held_out.n_unknown_users, "unknown_items": held_out.n_unknown_items}
        return rank, counts

    def _on_candidates(
        self, file: Path, train: Interactions, test: Interactions | None, metrics: Sequence[Metric]
    ) -> tuple[Rank, dict[str, int]]:
        """How to rank the candidates of the file, which is read here, and how much there is to rank."""
        from trainer.candidates import read_candidates
        from trainer.evaluate import candidates_ranking, check_cases, check_metrics, match_cases, popularity_scorer
        from trainer.parts_scorer import user_scorer

        check_metrics(metrics, None)
        candidates = read_candidates(file)
        if test is not None:
            check_cases(candidates, test)
        cases = match_cases(train, candidates)

        def rank(learned: Learned) -> list[Ranking]:
            scorers = (user_scorer(learned, train), popularity_scorer(train))
            return [candidates_ranking(scorer, cases, max(metric.k for metric in metrics)) for scorer in scorers]

        return rank, {"cases": len(cases.users), "cases_of_unknown_users": cases.n_unknown_users}

    def _print(self, model: Measured, popularity: Measured, counts: dict[str, int]) -> None:
        import numpy as np

        from trainer.comparison import compare, intervals

        generator = np.random.default_rng(self.seed)
        bounds = intervals(model.per_user, generator)
        if self.json:
            differences = compare(model.per_user, popularity.per_user, generator)
            results = {
                "metrics": model.means,
                "popularity": popularity.means,
                "intervals": bounds,
                "comparison": {
                    name: {"difference": each.mean, "interval": each.interval, "p": each.p}
                    for name, each in differences.items()
                },
            }
            print(json.dumps({**results, **counts, "configuration": as_mapping(self)}, indent=1))
            return
        width = max(map(len, model.means))
        print(f"{'':<{width}}  {self.model:>10}  {'popular':>8}  95% interval of {self.model}")
        for name, mean in model.means.items():
            interval = "{:8.4f} to {:.4f}".format(*bounds[name]) if name in bounds else ""
            print(f"{name:<{width}}  {mean:10.4f}  {popularity.means[name]:8.4f}  {interval}".rstrip())
        print(", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()))

    def _read_parts(self) -> tuple[Interactions, Interactions | None, Interactions | None]:
        """Training events, what is known of held-out users, and test events."""
        if self.split is None:
            # Least numbers of items and users are about what can be learned, not about what is to be found.
            whole = dataclasses.replace(self.cleaning(), min_user_items=1, min_item_users=1)
            return self._read(self.train, self.cleaning()), None, self._read(self.test, whole) if self.test else None
        parts = self.split_events(self.train, self.split)
        _log.info("%s\n%s", ", ".join(self.train), parts.report.table())
        return parts.train, parts.history, parts.test

    def _read(self, sources: tuple[str, ...], cleaning: Cleaning) -> Interactions:
        from trainer.interactions import read_interactions

        interactions = read_interactions(
            sources,
            self.columns(),
            cleaning=cleaning,
            threads=self.threads,
            memory_limit=self.memory_limit,
            timestamp_format=self.timestamp_format,
        )
        _log.info("%s\n%s", ", ".join(sources), interactions.report.table())
        return interactions


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a release's vectors to Parquet, for other programs: inner products are the scores.

    Each release's vectors are turned towards those of the release before, so that they drift and do not jump.
    """

    releases: Path = option("directory of releases", metavar="DIR")
    release: str | None = option("release to export; the live one if not given", None, metavar="ID")
    items: Path | None = option("write item_id and vector of every item here", None, metavar="FILE")
    users: Path | None = option("write user_id and vector of every user here", None, metavar="FILE")

    def run(self) -> None:
        """Write the files that are named, and say what they hold. Raises UsageError, ReleaseError."""
        from engine.release import Release
        from engine.repository import Repository
        from trainer.export import check_outputs, export_items, export_users

        check_outputs(self.items, self.users)
        repository = Repository(self.releases)
        release = Release(repository.current_path() if self.release is None else repository.path(self.release)).held()
        for path, write in ((self.items, export_items), (self.users, export_users)):
            if path is not None:
                print(write(release, path), file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Rules(EventOptions):
    """Write association rules between two items to Parquet: who takes this also takes that.

    Counted in baskets, or in users' histories where events name none: support, confidence and lift of each pair.
    """

    events: tuple[str, ...] = option(EVENTS_HELP, positional=True, metavar="EVENTS")
    output: Path = option("file to write", metavar="FILE")
    min_count: int = option("baskets that must hold both items", 5, metavar="N", minimum=1)
    threads: int = option("threads; 0 takes every core", 0, metavar="N", minimum=0)

    def run(self) -> None:
        """Write the file, and say what it holds. Raises NearcartError."""
        from trainer.export import check_outputs
        from trainer.interactions import read_interactions
        from trainer.progress import Steps
        from trainer.rules_export import export_rules

        check_outputs(self.output)
        interactions = read_interactions(
            self.events,
            self.columns(),
            cleaning=self.cleaning(),
            threads=self.threads,
            memory_limit=self.memory_limit,
            timestamp_format=self.timestamp_format,
            on_step=Steps(quiet=self.quiet),
        )
        _log.info("events\n%s", interactions.report.table())
        print(export_rules(interactions, self.output, self.min_count, self.threads), file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class RecommendAll:
    """Write the best items of every user of a release to Parquet files.

    A user gets what a server would answer. Run again, the same command goes on where it was interrupted.
    """

    releases: Path = option("directory of releases", metavar="DIR")
    release: str | None = option("release to answer from; the live one if not given", None, metavar="ID")
    output: Path = option("directory of the Parquet files: new, empty, or of the same job", metavar="DIR")
    limit: int = option("items for each user", 20, metavar="K", minimum=1, maximum=1000)
    repeat: str = option("items the user already has", "never", choices=("never", "mix"))
    threads: int = option("threads; 0 takes every core", 0, metavar="N", minimum=0)
    quiet: bool = option("no progress", False)

    def run(self) -> None:
        """Write what is not there yet, and say what there is. Raises ReleaseError, OutputMismatch."""
        from engine.release import Release
        from engine.repository import Repository
        from trainer.recommend_all import recommend_all

        repository = Repository(self.releases)
        release = Release(repository.current_path() if self.release is None else repository.path(self.release)).held()
        told = recommend_all(
            release, self.output, limit=self.limit, repeat=self.repeat, threads=self.threads, quiet=self.quiet
        )
        print(told, file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class Tune(TuneOptions):
    """Search for the hyper-parameters that find most of the events that a split holds out.

    Leaves the best in best.toml, for `nearcart train --config`, with all trials and a plot beside it. Run again with
    the same events and options, it goes on where it was interrupted.
    """

    def run(self) -> None:
        """Print the best trials and where the files are. Raises NearcartError."""
        try:
            from trainer.tuning_run import tune
        except ModuleNotFoundError as error:
            if error.name not in ("matplotlib", "optuna"):
                raise
            hint = "install Nearcart with its extra `tune`, as in pip install 'nearcart[train,tune]'"
            raise NearcartError(f"needs the package {error.name!r}: {hint}") from None

        tune(self)


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train on the bundled shop, publish, serve, and ask a user query and a cart query over gRPC."""

    keep: Path | None = option("publish into this directory of releases, and keep it", None, metavar="DIR")
    limit: int = option("items to ask for", 10, metavar="K", minimum=1)

    def run(self) -> None:
        """Print the answers with product names. Raises NearcartError."""
        from trainer.demo import run_demo

        run_demo(self.keep, self.limit)
