"""From events to a published release, in one call: what `nearcart train` and the demo do."""

from __future__ import annotations

import logging

from engine.configuration import as_mapping
from engine.index import IndexPlan, check_plan
from engine.repository import Repository
from trainer.als import train_als
from trainer.export import publish_release
from trainer.interactions import read_interactions
from trainer.items import read_catalogue
from trainer.options import TrainOptions
from trainer.progress import Steps, training_progress

_log = logging.getLogger("nearcart")


def train_release(options: TrainOptions) -> str:
    """Train as the options say and publish; returns the release's id. Raises NearcartError."""
    als, columns = options.als(), options.columns()
    plan = IndexPlan(options.factory, options.search_parameters)
    check_plan(plan, als.factors)
    step = Steps(quiet=options.quiet)
    step("reading events")
    interactions = read_interactions(
        options.events,
        columns,
        cleaning=options.cleaning(),
        threads=als.threads,
        memory_limit=options.memory_limit,
        timestamp_format=options.timestamp_format,
        on_step=step,
    )
    _log.info("events\n%s", interactions.report.table())
    items = read_catalogue(
        options.items,
        options.events,
        columns,
        options.title_column,
        interactions.item_ids,
        threads=als.threads,
        memory_limit=options.memory_limit,
    )
    if options.items is not None:
        _log.info("items\n%s", items.report.table())
    step(
        f"{interactions.n_users:,} users, {interactions.n_items:,} items, {interactions.n_entries:,} entries; "
        f"training {als.factors} factors for {als.epochs} epochs"
    )
    with training_progress(quiet=options.quiet) as show:
        embeddings = train_als(interactions, als, show)
    step("building and measuring the index")
    release_id = publish_release(
        Repository(options.releases),
        interactions,
        items,
        embeddings,
        plan=plan,
        promised_recall=options.recall,
        configuration=as_mapping(options),
        promote=options.promote,
    )
    step(f"published {options.releases / release_id}" + (", live" if options.promote else ", not promoted"))
    return release_id
