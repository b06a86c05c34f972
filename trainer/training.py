"""From events to a published release, in one call: what `nearcart train` and the demo do."""

from __future__ import annotations

import logging

from engine.configuration import as_mapping
from engine.index import IndexPlan, check_plan
from engine.repository import Repository
from trainer.als import train_als
from trainer.commands import Train, als_options
from trainer.export import publish_release
from trainer.interactions import read_interactions
from trainer.items import read_catalogue
from trainer.progress import Steps, training_progress

_log = logging.getLogger("nearcart")


def train_release(command: Train) -> str:
    """Train as the command says and publish; returns the release's id. Raises NearcartError."""
    options, columns = als_options(command), command.columns()
    plan = IndexPlan(command.factory, command.search_parameters)
    check_plan(plan, options.factors)
    step = Steps(quiet=command.quiet)
    step("reading events")
    interactions = read_interactions(
        command.events,
        columns,
        cleaning=command.cleaning(),
        threads=options.threads,
        memory_limit=command.memory_limit,
        timestamp_format=command.timestamp_format,
        on_step=step,
    )
    _log.info("events\n%s", interactions.report.table())
    items = read_catalogue(
        command.items,
        command.events,
        columns,
        command.title_column,
        interactions.item_ids,
        threads=options.threads,
        memory_limit=command.memory_limit,
    )
    if command.items is not None:
        _log.info("items\n%s", items.report.table())
    step(
        f"{interactions.n_users:,} users, {interactions.n_items:,} items, {interactions.n_entries:,} entries; "
        f"training {options.factors} factors for {options.epochs} epochs"
    )
    with training_progress(quiet=command.quiet) as show:
        embeddings = train_als(interactions, options, show)
    step("building and measuring the index")
    release_id = publish_release(
        Repository(command.releases),
        interactions,
        items,
        embeddings,
        plan=plan,
        promised_recall=command.recall,
        configuration=as_mapping(command),
        promote=command.promote,
    )
    step(f"published {command.releases / release_id}" + (", live" if command.promote else ", not promoted"))
    return release_id
