"""From events to a published release, in one call: what `nearcart train` and the demo do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.index import IndexPlan, check_plan
from engine.repository import Repository
from trainer.als import train_als
from trainer.als_options import AlsOptions
from trainer.cleaning import Cleaning
from trainer.events import EventColumns
from trainer.export import publish_release
from trainer.interactions import read_interactions
from trainer.items import read_catalogue
from trainer.progress import Steps, training_progress

_log = logging.getLogger("nearcart")


def train_release(
    events: Sequence[str],
    *,
    columns: EventColumns,
    cleaning: Cleaning,
    options: AlsOptions,
    releases: Path,
    items_file: Path | None = None,
    title_column: str | None = None,
    factory: str = "Flat",
    search_parameters: str = "",
    promised_recall: float = 0.99,
    memory_limit: str = "2GB",
    promote: bool = True,
    quiet: bool = False,
    configuration: Mapping[str, Any] | None = None,
) -> str:
    """Train and publish; returns the release's id. Raises TrainerError, SearchError or ReleaseError."""
    plan = IndexPlan(factory, search_parameters)
    check_plan(plan, options.factors)
    step = Steps(quiet=quiet)
    step("reading events")
    interactions = read_interactions(
        events, columns, cleaning=cleaning, threads=options.threads, memory_limit=memory_limit, on_step=step
    )
    _log.info("events\n%s", interactions.report.table())
    step(
        f"{interactions.n_users:,} users, {interactions.n_items:,} items, {interactions.n_entries:,} entries; "
        f"training {options.factors} factors for {options.epochs} epochs"
    )
    items = read_catalogue(items_file, events, columns, title_column, interactions.item_ids)
    if items_file is not None:
        _log.info("items\n%s", items.report.table())
    with training_progress(quiet=quiet) as show:
        embeddings = train_als(interactions, options, show)
    step("building and measuring the index")
    release_id = publish_release(
        Repository(releases),
        interactions,
        items,
        embeddings,
        plan=plan,
        promised_recall=promised_recall,
        configuration=configuration or {},
        promote=promote,
    )
    step(f"published {releases / release_id}" + (", live" if promote else ", not promoted"))
    return release_id
