"""From events to the best configuration, in one call: what `nearcart tune` does. Checked by tests/test_tuning.py."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from rich.console import Console

from engine.errors import UsageError
from trainer.choices import parse_split
from trainer.cleaning import Cleaning
from trainer.digest import digest_of
from trainer.errors import EvaluationError
from trainer.experiment import EventsExperiment
from trainer.interactions import read_interactions
from trainer.metrics import Metric, parse_metrics
from trainer.model_options import ALS, PARTS_OF
from trainer.options import AlsOptions, EventOptions, TuneOptions
from trainer.parts_tuning import Shop, TriedPart, best_options, search_parts
from trainer.progress import Steps
from trainer.splits import Split, read_split
from trainer.trials import Plan, Tried, ranked
from trainer.tuning import search
from trainer.tuning_report import (
    BEST_FILE,
    PARTS_METRIC,
    PARTS_TRIALS_FILE,
    PLOT_FILE,
    TRIALS_FILE,
    plot_trials,
    print_parts_table,
    print_table,
    write_best,
    write_parts_trials,
    write_toml,
    write_trials,
)
from trainer.validation import AUTO, rule_for, validation_of
from trainer.weighting import Weighting

JOURNAL_FILE, PARTS_JOURNAL_FILE = "journal.jsonl", "parts-journal.jsonl"
_ALL_CASES = 1 << 30

_FACTORS_FIELD = next(field for field in dataclasses.fields(AlsOptions) if field.name == "factors")
_NOT_OF_TRAINING = ("weighting", "memory_limit", "quiet")
_OF_ENTRIES = ("event_weights", "half_life_days", "saturation", "length_normalization")
"""Options of events that change weights which the digest of entries does not see."""

_log = logging.getLogger("nearcart")


def tune(options: TuneOptions) -> None:
    """Search as the options say; print tables, leave files. Raises NearcartError."""
    plan_of(options)
    _metric(options.metric)
    parse_split(options.split)
    parts = tune_parts(options) if options.model != ALS else {}
    if ALS in PARTS_OF[options.model]:
        tune_vectors(options, parts)


def tune_parts(options: TuneOptions) -> dict[str, Any]:
    """Search for the options of the parts beside vectors; returns the best, which are left in a file."""
    step = Steps(quiet=options.quiet)
    rule = options.validation
    if rule != AUTO:
        parse_split(rule)
    step("reading events")
    if rule == AUTO:
        rule = rule_for(
            read_interactions(
                options.events,
                options.columns(),
                cleaning=_cleaning(options),
                threads=options.threads,
                memory_limit=options.memory_limit,
                timestamp_format=options.timestamp_format,
            )
        )
    step(f"holding out {rule}")
    split = _read(options, rule, _cleaning(options), step)
    cases = validation_of(split, most=options.validation_users or _ALL_CASES, seed=options.seed).cases
    if not cases:
        raise EvaluationError(
            f"the split {rule!r} leaves no carts and no users to ask for: give another --validation, or --model als"
        )
    shop = Shop.of(split.train, cases[0])
    step(f"searching for what finds most of {len(cases[0].evidence):,} {cases[0].kind}s")
    identity = {
        "validation": rule,
        "seed": options.seed,
        "validation_users": options.validation_users,
        "event_weights": options.event_weights,
        "events": digest_of(*split.train.arrays(), *split.test.arrays()),
    }
    tried: list[TriedPart] = []
    journal = options.output / PARTS_JOURNAL_FILE
    how: dict[str, Any] = {"seed": options.seed, "threads": options.threads, "step": step}
    try:
        for each in search_parts(shop, options.model, options.trials, journal, identity, **how):
            tried.append(each)
    except (KeyboardInterrupt, SystemExit):
        step("interrupted; the same command goes on from here")
        raise
    finally:
        if tried:
            _write_parts(options, tried)
    print_parts_table(Console(), tried)
    for name in (BEST_FILE, PARTS_TRIALS_FILE):
        print(options.output / name)
    return {"model": options.model, **best_options(tried)}


def tune_vectors(options: TuneOptions, parts: Mapping[str, Any]) -> None:
    """Search for the options of vectors; those of parts go into the same file."""
    plan, metric = plan_of(options), _metric(options.metric)
    parse_split(options.split)
    step = Steps(quiet=options.quiet)

    def read(weighting: Weighting) -> Split:
        step(f"reading events (weighting {weighting})")
        return _read(options, options.split, dataclasses.replace(cleaning, weighting=weighting), step)

    cleaning = dataclasses.replace(options, weighting="count").cleaning()
    experiment = EventsExperiment(
        read, cleaning, metric, seed=options.seed, most_users=options.validation_users, threads=options.threads
    )
    train = experiment.split.train
    _log.info("events\n%s", experiment.split.report.table())
    step(
        f"searching on {train.n_users:,} users, {train.n_items:,} items, {train.n_entries:,} entries; "
        f"{metric.name} of {experiment.n_users:,} users"
    )
    tried: list[Tried] = []
    journal = options.output / JOURNAL_FILE
    try:
        for each in search(experiment, plan, journal, _identity(options, metric, experiment), step):
            tried.append(each)
    except (KeyboardInterrupt, SystemExit):
        step("interrupted; the same command goes on from here")
        raise
    finally:
        if ranked(tried):
            # Also of a search that was interrupted, or ran out of memory with more factors.
            _write(options, tried, metric, parts)
    print_table(Console(), tried, metric.name, experiment.popularity())
    best = ranked(tried)[0]
    if best.epochs == options.epochs:
        print(f"The best trial was still getting better after {best.epochs} epochs: try more --epochs.")
    for name in (BEST_FILE, TRIALS_FILE, PLOT_FILE):
        print(options.output / name)


def _cleaning(options: TuneOptions) -> Cleaning:
    return dataclasses.replace(options, weighting="log").cleaning()


def _read(options: TuneOptions, rule: str, cleaning: Cleaning, step: Steps) -> Split:
    return read_split(
        options.events,
        options.columns(),
        rule,
        cleaning=cleaning,
        seed=options.seed,
        threads=options.threads,
        memory_limit=options.memory_limit,
        timestamp_format=options.timestamp_format,
        on_step=step,
    )


def plan_of(options: TuneOptions) -> Plan:
    """What to search. Raises UsageError for lists that cannot be understood."""
    return Plan(
        factors=tuple(sorted({_number_of_factors(text) for text in _listed(options.factors, "--factors")})),
        weightings=tuple(dict.fromkeys(map(_weighting, _listed(options.weighting, "--weighting")))),
        trials=options.trials,
        refine_trials=options.refine_trials,
        epochs=options.epochs,
        seed=options.seed,
        threads=options.threads,
    )


def _listed(text: str, flag: str) -> list[str]:
    entries = [each.strip() for each in text.split(",")]
    if not all(entries):
        raise UsageError(f"{flag}: found {text!r}, expected a comma-separated list")
    return entries


def _number_of_factors(text: str) -> int:
    least, most = (_FACTORS_FIELD.metadata[bound] for bound in ("minimum", "maximum"))
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UsageError(f"--factors: found {text!r}, expected whole numbers from {least} to {most}, such as 64,128")
    return int(text)


def _weighting(text: str) -> Weighting:
    if text not in get_args(Weighting):
        raise UsageError(f"--weighting: found {text!r}, expected some of {','.join(get_args(Weighting))}")
    return cast(Weighting, text)


def _metric(text: str) -> Metric:
    metrics = parse_metrics(text)
    if len(metrics) > 1:
        raise UsageError(f"--metric: found {text!r}, expected one metric: a search has one aim")
    return metrics[0]


def _identity(options: TuneOptions, metric: Metric, experiment: EventsExperiment) -> dict[str, Any]:
    """What must be the same for trials to be comparable. More trials, or factors, may be asked for later."""
    return {
        "split": options.split,
        "metric": metric.name,
        "epochs": options.epochs,
        "seed": options.seed,
        "weighting": list(plan_of(options).weightings),
        "validation_users": options.validation_users,
        **{name: getattr(options, name) for name in _OF_ENTRIES},
        "events": experiment.digest(),  # last: options are told as the cause of other entries
    }


def _write(options: TuneOptions, tried: list[Tried], metric: Metric, parts: Mapping[str, Any]) -> None:
    others = _others(options) | dict(parts)
    directory: Path = options.output
    try:
        write_trials(directory / TRIALS_FILE, tried, metric.name)
        write_best(directory / BEST_FILE, ranked(tried)[0], metric.name, others)
        plot_trials(directory / PLOT_FILE, tried, metric.name)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}: expected a directory that can be written to") from error


def _write_parts(options: TuneOptions, tried: list[TriedPart]) -> None:
    directory: Path = options.output
    try:
        write_parts_trials(directory / PARTS_TRIALS_FILE, tried)
        found = {**_others(options), "model": options.model, **best_options(tried)}
        write_toml(
            directory / BEST_FILE, f"what finds most of the validation events, by {PARTS_METRIC} of each part", found
        )
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}: expected a directory that can be written to") from error


def _others(options: TuneOptions) -> dict[str, Any]:
    """Options of events that a training must repeat."""
    others: dict[str, Any] = {"seed": options.seed}
    for field in dataclasses.fields(EventOptions):
        value = getattr(options, field.name)
        if field.name not in _NOT_OF_TRAINING and value != field.default:
            others[field.name] = value
    return others
