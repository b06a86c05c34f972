"""Items born after a training get vectors from the events since: what `nearcart index --fold-in` does.

Events are read as the release's were (trainer.recipe), its histories grow by what it does not have (trainer.growth),
what is new is solved (trainer.grown_vectors), and all of it is published as any release is (trainer.publishing).
Checked by tests/test_new_items.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.attributes import Attribute, appended, kind_of, read_attributes
from engine.errors import ReleaseIncompatible
from engine.ids import IdTable
from engine.index import check_plan
from engine.index_progress import SILENCE, IndexProgress
from engine.measurement import MAX_QUERIES, Bags, bag, bags_of
from engine.parts import AGES, DensePart, part_names
from engine.plan import IndexPlan
from engine.release import Release
from engine.repository import Repository
from engine.sparse_part import read_sparse_parts
from engine.vector_table import VectorTable
from trainer.als import Embeddings
from trainer.errors import FoldInImpossible
from trainer.export import align
from trainer.grown_vectors import PASSES, Trained, grown_vectors
from trainer.growth import (
    ITEMS_WITH_FEW_USERS,
    ITEMS_WITHOUT_EVIDENCE,
    USERS_WITH_FEW_ITEMS,
    USERS_WITHOUT_ITEMS,
    Growth,
    NewEntries,
    grow,
    grown_ages,
)
from trainer.half_epoch import Penalty
from trainer.interactions import Interactions
from trainer.items import Items
from trainer.learned import Learned
from trainer.memory import require_memory_to_fold_in
from trainer.options import AlsOptions
from trainer.publishing import Contents, publish_contents, sample_carts
from trainer.recipe import Recipe
from trainer.warm_start import Histories, new_entries, read_histories, read_previous

_log = logging.getLogger("nearcart")

_KEPT_FIELDS = ("metrics", "losses", "events", "configuration")
"""Of the manifest: how the item vectors came about."""
_LOOKED_AT = 1 << 16
"""Vectors looked at a time."""
_REASONS = {
    ITEMS_WITH_FEW_USERS: "items with fewer users than --min-item-users of the training",
    ITEMS_WITHOUT_EVIDENCE: "items that nobody likes who likes an item with a vector",
    USERS_WITH_FEW_ITEMS: "users with fewer items than --min-user-items of the training",
    USERS_WITHOUT_ITEMS: "users with nothing but such items",
}


def fold_events_in(
    repository: Repository,
    release_id: str,
    events: Sequence[str],
    items: Path | None,
    plan: IndexPlan,
    promised_recall: float,
    *,
    promote: bool,
    seconds: float,
    on_step: Callable[[str], None],
    progress: IndexProgress = SILENCE,
    passes: int = PASSES,
) -> tuple[str, Mapping[str, Any]]:
    """Publish a release with what `events` add to another one; returns its id and the manifest's "index".

    engine.fold_in.FoldIn. Raises FoldInImpossible, EventsError, ItemsError, TrainingDiverged, ReleaseError, and what
    publishing raises.
    """
    base = _Base.of(Release(repository.path(release_id)).held(), plan, on_step)
    part, recipe = base.part, base.recipe
    interactions = recipe.read(events, on_step)
    _log.info("events\n%s", interactions.report.table())
    on_step("adding what is new to the histories")
    is_new = new_entries(base.histories, interactions)
    new = _entries(base, interactions, is_new)
    growth = grow(base.histories.by_user, new, recipe.support, passes)
    n_events = int(interactions.counts[is_new][growth.is_kept].sum())
    described = _described(base, interactions, growth, n_events)
    if not growth.is_kept.any():
        raise FoldInImpossible(f"{', '.join(map(str, events))}: found nothing new to fold in. {_told(described)}")
    on_step(_told(described))
    others = [name for name in part_names(base.release.manifest) if name != part.name]
    if others and described["items"]:
        _log.warning(
            "%s know nothing of the new items, which this release will hardly show: train again soon", ", ".join(others)
        )
    contents = _contents(base, interactions, growth, n_events, events, items)
    user_ids, item_ids = contents.user_ids, contents.item_ids
    n_some = max(len(growth.changed), len(growth.touched))
    require_memory_to_fold_in(len(user_ids), n_some, len(item_ids), part.factors, recipe.threads)
    users, table = grown_vectors(growth, base.trained(), user_ids, item_ids, recipe.threads, on_step, passes)
    kept = {name: base.release.manifest[name] for name in _KEPT_FIELDS if name in base.release.manifest}
    on_step("building and measuring the index")
    published = publish_contents(
        repository,
        contents,
        base.learned(
            Embeddings(users, table.vectors, table.spectrum, part.unobserved_weight, base.options(), losses=()),
            base.ages(new, interactions.ages()[is_new], growth),
        ),
        {**kept, "index_of": release_id, "folded_in": described},
        plan=plan,
        promised_recall=promised_recall,
        promote=promote,
        vectors=part.vectors,
        index_seconds=seconds,
        progress=progress,
        alignment=align(read_previous(base.release), item_ids, table.vectors),
    )
    return published, Release(repository.path(published)).manifest["index"]


@dataclass(frozen=True)
class _Base:
    """The release that is folded into; its arrays are memory-mapped."""

    release: Release
    part: DensePart
    recipe: Recipe
    histories: Histories
    attributes: dict[str, Attribute]

    @classmethod
    def of(cls, release: Release, plan: IndexPlan, on_step: Callable[[str], None]) -> _Base:
        """Check all that can be before events are read. Raises FoldInImpossible, ReleaseError, IndexUnsupported."""
        part, recipe = DensePart.of(release.manifest), Recipe.of(release)
        check_plan(plan, part.factors)
        on_step(f"verifying release {release.release_id}")
        release.verify()
        return cls(release, part, recipe, read_histories(release), _attributes(release, part.n_items))

    def trained(self) -> Trained:
        """Its vectors and penalty."""
        part, encoder = self.part, self.part.encoder(self.release)
        penalty = Penalty(part.unobserved_weight, part.regularization, part.regularization_exponent)
        items = part.item_vectors(self.release)[:]
        return Trained(part.user_vectors(self.release), items, encoder.spectrum, penalty)

    def learned(self, embeddings: Embeddings, ages: NDArray[np.uint16] | None) -> Learned:
        """The same parts with other vectors; memories learn nothing of new items, which have no rows in them."""
        sparse = tuple(read_sparse_parts(self.release))
        return Learned(embeddings, sparse, self.part.weight, ages)

    def ages(self, new: NewEntries, new_ages: NDArray[np.int32], growth: Growth) -> NDArray[np.uint16] | None:
        """Those of all entries, None where the release has none."""
        if not self.release.has(AGES):
            return None
        ages = self.release.array(AGES, np.uint16, (self.part.n_entries,))
        return grown_ages(self.histories.by_user, ages, new, new_ages, growth)

    def options(self) -> AlsOptions:
        """Those that a manifest repeats."""
        return AlsOptions(
            factors=self.part.factors,
            regularization=self.part.regularization,
            regularization_exponent=self.part.regularization_exponent,
            threads=self.recipe.threads,
        )


def _attributes(release: Release, n_items: int) -> dict[str, Attribute]:
    """The release's. Raises ReleaseIncompatible for one that cannot be continued."""
    attributes = read_attributes(release, n_items)
    for described in release.manifest["attributes"]:
        if described["name"] not in attributes:
            raise ReleaseIncompatible(
                f"release {release.release_id} has the attribute {described['name']!r} of the kind "
                f"{described['kind']!r}, which this program does not know: fold in with the program that wrote it"
            )
    return attributes


def _entries(base: _Base, interactions: Interactions, is_new: NDArray[np.bool_]) -> NewEntries:
    """The new entries, and which users and items of the events have a vector in the release."""
    by_user = interactions.by_user
    user_rows = base.histories.user_ids.rows_of(interactions.user_ids.strings)
    item_rows = base.histories.item_ids.rows_of(interactions.item_ids.strings)
    users = np.repeat(np.arange(by_user.n_rows, dtype=np.int32), np.diff(by_user.indptr))
    return NewEntries(
        users=users[is_new],
        items=by_user.indices[is_new],
        values=by_user.values[is_new],
        user_rows=user_rows,
        item_rows=item_rows,
        user_tells=_is_not_zero(base.part.user_vectors(base.release), user_rows),
        item_tells=_is_not_zero(base.part.item_vectors(base.release), item_rows),
    )


def _is_not_zero(vectors: VectorTable, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether the vector of each row has an element that is not zero; False for the row -1."""
    found = np.zeros(len(rows), dtype=np.bool_)
    for start in range(0, len(rows), _LOOKED_AT):
        part = rows[start : start + _LOOKED_AT]
        found[start : start + _LOOKED_AT] = (part >= 0) & vectors[np.maximum(part, 0)].any(axis=1)
    return found


def _contents(
    base: _Base, interactions: Interactions, growth: Growth, n_events: int, events: Sequence[str], items: Path | None
) -> Contents:
    """What the new release holds beside vectors."""
    release, n_items = base.release, base.part.n_items
    item_ids = _followed(base.histories.item_ids, interactions.item_ids, growth.item_rows)
    new_ids = IdTable.over(item_ids.strings.select(np.arange(n_items, len(item_ids))))
    kinds = {name: kind_of(attribute) for name, attribute in base.attributes.items()}
    known = base.recipe.read_items(items, events, new_ids, kinds)
    _log_items(known, kinds, items, len(new_ids))
    return Contents(
        user_ids=_followed(base.histories.user_ids, interactions.user_ids, growth.user_rows),
        item_ids=item_ids,
        by_user=growth.by_user,
        n_events=int(release.manifest["sizes"].get("events", 0)) + n_events,
        attributes={
            name: appended(attribute, known.attributes.get(name), len(new_ids))
            for name, attribute in base.attributes.items()
        },
        available=np.append(release.array("items/available", np.bool_, (n_items,)), known.available),
        carts=_carts(base, interactions, growth),
    )


def _followed(old: IdTable, of_events: IdTable, rows: NDArray[np.int32]) -> IdTable:
    """The ids of the release, then the new ones; `rows` are those of the events in the grown release."""
    new = np.flatnonzero(rows >= len(old))
    return IdTable.over(old.strings.followed_by(of_events.strings.select(new[np.argsort(rows[new])])))


def _carts(base: _Base, interactions: Interactions, growth: Growth) -> Bags:
    """Carts of the events, as many as their share of all entries but one at least, then those of the release.

    The same events may be folded in twice: a cart that the release has is no new one.
    """
    starts = base.release.array("canaries/carts.indptr", np.int64, (None,))
    stored = starts, base.release.array("canaries/carts.indices", np.int32, (int(starts[-1]),))
    old = [bag(stored, place) for place in range(len(starts) - 1)]
    sampled = sample_carts(interactions, np.random.default_rng(base.recipe.seed))
    mapped = [growth.item_rows[bag(sampled, i)] for i in range(len(sampled[0]) - 1)]
    known = {cart.tobytes() for cart in old}
    fresh = {
        cart.tobytes(): cart for cart in (np.sort(each[each >= 0]).astype(np.int32) for each in mapped) if len(cart)
    }
    new = [cart for content, cart in fresh.items() if content not in known]
    share = np.count_nonzero(growth.is_kept) / growth.by_user.n_entries
    new = _spread(new, max(1, round(share * MAX_QUERIES), MAX_QUERIES - len(old)))
    return bags_of([*new, *_spread(old, MAX_QUERIES - len(new))])


def _spread(carts: list[NDArray[np.int32]], most: int) -> list[NDArray[np.int32]]:
    """So many of them at most, evenly."""
    n = min(len(carts), most)
    return [carts[place] for place in np.linspace(0, len(carts) - 1, n).astype(np.int64).tolist()] if n else []


def _described(base: _Base, interactions: Interactions, growth: Growth, n_events: int) -> dict[str, Any]:
    """What the manifest says of it."""
    return {
        "items": int(np.count_nonzero(growth.item_rows >= base.part.n_items)),
        "users": int(np.count_nonzero(growth.user_rows >= base.part.n_users)),
        "entries": int(np.count_nonzero(growth.is_kept)),
        "rows": n_events,
        "left_out": dict(growth.left_out),
        "events": interactions.report.as_dict(),
    }


def _told(described: Mapping[str, Any]) -> str:
    """The same in words."""
    told = ", ".join(f"{described[name]:,} {name}" for name in ("items", "users", "entries"))
    left_out = [f"{n:,} {_REASONS[reason]}" for reason, n in described["left_out"].items() if n]
    return f"New: {told}; left out: {', '.join(left_out) or 'none'}"


def _log_items(known: Items, kinds: Mapping[str, str], items: Path | None, n_new: int) -> None:
    """How much of the new items the items file knows, and what of it the release has no place for."""
    if items is None:
        return
    _log.info("%s: %s of %s new items have a row", items, f"{known.report.rows_used:,}", f"{n_new:,}")
    strange = [name for name in known.attributes if name not in kinds]
    if strange:
        _log.warning("%s: left out, the release has no such attributes: %s", items, ", ".join(strange))
