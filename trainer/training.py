"""From events to a published release, in one call: what `nearcart train` and the demo do."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from engine.configuration import as_mapping
from engine.errors import PromotionRefused
from engine.gate import Gate
from engine.index import check_plan
from engine.plan import IndexPlan
from engine.repository import Repository
from trainer.als import Embeddings, train
from trainer.checkpoint import STARTED_FROM, Checkpoint
from trainer.choices import parse_split
from trainer.early_stopping import ITEM_COPIES, METRIC, EarlyStopping
from trainer.export import Alignment, align
from trainer.interactions import Interactions, read_interactions
from trainer.items import read_catalogue
from trainer.memory import require_memory
from trainer.model_options import ALS, PARTS_OF
from trainer.models import learn, warn_of_what_has_no_effect
from trainer.options import AlsOptions, TrainOptions
from trainer.progress import Steps, index_progress, training_progress
from trainer.publishing import publish_release
from trainer.validation import AUTO, NONE
from trainer.warm_start import (
    Previous,
    initial_items,
    live_release,
    new_entries,
    read_histories,
    release_to_start_from,
)

_log = logging.getLogger("nearcart")


def train_release(options: TrainOptions) -> str:
    """Train as the options say and publish; returns the release's id. Raises NearcartError.

    That may be PromotionRefused, which names a release that was published and did not become live.
    """
    als, columns = options.als(), options.columns()
    plan = IndexPlan(options.factory, options.search_parameters)
    check_plan(plan, als.factors)
    repository = Repository(options.releases, Gate(options.max_loss, options.max_metric_loss))
    warn_of_what_has_no_effect(options)
    if options.validation not in (AUTO, NONE):
        parse_split(options.validation)
    previous = None
    if ALS in PARTS_OF[options.model]:
        previous = release_to_start_from(repository, options.warm_start, als.factors)
    if options.checkpoint is not None:
        Checkpoint(options.checkpoint, details=_details(options, previous)).require_details()
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
    step(f"{interactions.n_users:,} users, {interactions.n_items:,} items, {interactions.n_entries:,} entries")
    # What parts count is found with vectors that start from nothing: a warm start's few epochs would belittle them.
    enough = max(options.epochs, AlsOptions().epochs) if previous is not None else options.epochs
    learned = learn(
        interactions,
        dataclasses.replace(options, epochs=enough),
        vectors=lambda: _vectors(interactions, options, previous, step),
        cut=lambda rule: options.split_events(options.events, rule),
        on_step=step,
    )
    alignment = None
    if learned.embeddings is not None:
        step("building and measuring the index")
        live = previous or live_release(repository, als.factors)
        alignment = _aligned(live, interactions, learned.embeddings)
    try:
        with index_progress(step, quiet=options.quiet) as progress:
            release_id = publish_release(
                repository,
                interactions,
                items,
                learned,
                plan=plan,
                promised_recall=options.recall,
                configuration=as_mapping(options),
                seed=als.seed,
                promote=options.promote,
                vectors=options.vectors,
                index_seconds=options.index_seconds,
                progress=progress,
                alignment=alignment,
            )
    except PromotionRefused as error:
        _forget(options.checkpoint)
        step(f"published {options.releases / error.release_id}, not promoted")
        raise
    # Whoever is killed before this line leaves a checkpoint that warm starts from what is live now refuse.
    _forget(options.checkpoint)
    step(f"published {options.releases / release_id}" + (", live" if options.promote else ", not promoted"))
    return release_id


def _forget(checkpoint: Path | None) -> None:
    """What it leads to is published."""
    if checkpoint is not None:
        Checkpoint(checkpoint).remove()


def _details(options: TrainOptions, previous: Previous | None) -> dict[str, Any]:
    """What a checkpoint's training is, beside the options of ALS and the events."""
    started_from = None if previous is None else previous.release_id
    return {"early_stopping": options.early_stopping, STARTED_FROM: started_from}


def _vectors(interactions: Interactions, options: TrainOptions, previous: Previous | None, step: Steps) -> Embeddings:
    """Train vectors, with what the options ask for beside it."""
    step(f"training {options.factors} factors for {options.epochs} epochs")
    stopping = None
    if options.early_stopping:
        among, kind = None, "an item"
        if previous is not None and previous.release is not None:
            among = new_entries(read_histories(previous.release), interactions)
            kind = f"an item that release {previous.release_id} did not have"
        stopping = EarlyStopping(interactions, options, options.early_stopping, among=among)
        step(f"holding out {kind} of {stopping.n_users:,} users, to measure {METRIC} after each epoch")
    copies = (ITEM_COPIES if stopping is not None else 0) + (previous is not None)
    require_memory(interactions, options, item_copies=copies)
    checkpoint = None
    if options.checkpoint is not None:
        details = _details(options, previous)
        checkpoint = Checkpoint(options.checkpoint, companion=stopping, details=details, on_step=step)
    validation = None if stopping is None else stopping.described
    try:
        with training_progress(quiet=options.quiet, validation=validation) as show:
            embeddings = train(
                interactions if stopping is None else stopping.training,
                options.als() if stopping is None else stopping.options,
                initial_items=None if previous is None else initial_items(previous, interactions.item_ids, options),
                checkpoint=checkpoint,
                on_progress=show,
                on_epoch=stopping,
            )
    except (KeyboardInterrupt, SystemExit):
        if options.checkpoint is not None and options.checkpoint.exists():
            step(f"interrupted: the same command goes on from {options.checkpoint}")
        raise
    if stopping is None:
        return embeddings
    best = f"{METRIC} {max(stopping.values):.4f}"
    step(f"took the items of epoch {stopping.best_epoch} of {len(stopping.values)}, the best by {best}")
    return stopping.completed(embeddings)


def _aligned(previous: Previous | None, interactions: Interactions, embeddings: Embeddings) -> Alignment | None:
    """How to export the vectors, near to those of the release before; said in the log."""
    alignment = None if previous is None else align(previous, interactions.item_ids, embeddings.item_vectors)
    if alignment is not None:
        _log.info(
            "exported vectors are aligned to release %s: median cosine %.4f over %s common items",
            alignment.release_id, alignment.median_cosine, f"{alignment.n_items:,}",
        )  # fmt: skip
    return alignment
