"""What a manifest says of the parts of its recommender, each a query encoder with an item memory and a weight.

A recommender is the weighted sum of its parts. Of (ridge, dense) there is one at most, and it comes first; those with a
sparse memory are engine.sparse_part's. Whoever reads a release reads its manifest here, so that all agree on what it
is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.encoders import RidgeEncoder
from engine.errors import ReleaseCorrupt, ReleaseIncompatible
from engine.kinds import ByKind
from engine.plan import IndexPlan
from engine.release import Draft, Release
from engine.vector_formats import FLOAT32, FORMATS
from engine.vector_table import NO_SCALES, VectorTable, require_scales


class TableNames(NamedTuple):
    """What the arrays of a table of vectors are called."""

    codes: str
    scales: str

    def stored(self, vector_format: str) -> tuple[str, ...]:
        """Those that a release in this format has."""
        return (self.codes,) if vector_format == FLOAT32 else (self.codes, self.scales)


DENSE, SPARSE = "dense", "sparse"
RIDGE, BAG, SESSIONS = ("ridge", DENSE), ("bag", SPARSE), ("sessions", SPARSE)
KINDS = {RIDGE, BAG, SESSIONS}
"""Of encoder and memory."""
USERS = TableNames("parts/0/user_vectors", "parts/0/user_scales")
ITEMS = TableNames("parts/0/item_vectors", "parts/0/item_scales")
AGES = "users/history.ages"
"""How old each entry is, uint16: see engine.evidence."""
SPECTRUM = "parts/0/spectrum"
_MOST_ROWS = 1 << 48
EXPORT_ROTATION = "parts/0/export_rotation"


@dataclass(frozen=True)
class Sizes:
    """Of a release: rows of users and items, and entries of all histories."""

    n_users: int
    n_items: int
    n_entries: int

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Sizes:
        """Read a manifest. Raises ReleaseCorrupt."""
        with understanding(manifest):
            sizes = cls(*(int(manifest["sizes"][name]) for name in ("users", "items", "entries")))
        if not all(0 <= size < _MOST_ROWS for size in (sizes.n_users, sizes.n_items, sizes.n_entries)):
            raise ReleaseCorrupt(
                f"the manifest of {manifest.get('release_id')} has sizes that none of its arrays can have"
            )
        return sizes


@dataclass(frozen=True)
class DensePart:
    """Sizes, the encoder's parameters and the index of a release with a (ridge, dense) part."""

    n_users: int
    n_items: int
    n_entries: int
    name: str
    weight: ByKind
    factors: int
    vectors: str
    """Their format, one of engine.vector_formats.FORMATS."""
    unobserved_weight: float
    regularization: float
    regularization_exponent: float
    plan: IndexPlan

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> DensePart:
        """Read a manifest. Raises ReleaseIncompatible where there is no such part, ReleaseCorrupt."""
        part = cls.if_any(manifest)
        if part is None:
            raise ReleaseIncompatible(
                f"release {manifest['release_id']} has no vectors, only {', '.join(map(repr, part_names(manifest)))}: "
                "train with --model als or --model blend for that"
            )
        return part

    @classmethod
    def if_any(cls, manifest: Mapping[str, Any]) -> DensePart | None:
        """As `of`; None where there is no such part."""
        sizes = Sizes.of(manifest)
        with understanding(manifest):
            index = manifest["index"]
            dense = [part for part in entries_of(manifest) if part["memory"]["kind"] == DENSE]
            if not dense:
                return None
            (part,) = dense
            encoder, vectors = part["encoder"], part.get("vectors", FLOAT32)
            if vectors not in FORMATS:
                raise ReleaseIncompatible(
                    f"release {manifest['release_id']} has its vectors in the format {vectors!r}; "
                    f"this program reads {', '.join(FORMATS)}"
                )
            return cls(
                n_users=sizes.n_users,
                n_items=sizes.n_items,
                n_entries=sizes.n_entries,
                name=str(part["name"]),
                weight=ByKind.read(part["weight"]),
                factors=int(part["memory"]["factors"]),
                vectors=vectors,
                unobserved_weight=float(encoder["unobserved_weight"]),
                regularization=float(encoder["regularization"]),
                regularization_exponent=float(encoder["regularization_exponent"]),
                plan=IndexPlan(
                    str(index["factory"]),
                    str(index["search_parameters"]),
                    int(index.get("matrix_queries", IndexPlan.matrix_queries)),
                ),
            )

    def user_vectors(self, release: Release) -> VectorTable:
        """The users' vectors, memory-mapped; their scales are looked at when rows are asked for."""
        return read_vectors(release, USERS, self.vectors, (self.n_users, self.factors))

    def item_vectors(self, release: Release) -> VectorTable:
        """The items' vectors, memory-mapped; their scales are looked at now."""
        table = read_vectors(release, ITEMS, self.vectors, (self.n_items, self.factors))
        require_scales(table.scales)
        return table

    def export_rotation(self, release: Release) -> NDArray[np.float32] | None:
        """What vectors are multiplied by before they leave the program, float32 (d, d); None where they leave as is.

        Orthogonal, so that scores stay. Serving never reads it.
        """
        if not release.has(EXPORT_ROTATION):
            return None
        return release.array(EXPORT_ROTATION, np.float32, (self.factors, self.factors))

    def encoder(self, release: Release) -> RidgeEncoder:
        """The encoder over the items' vectors, memory-mapped."""
        return RidgeEncoder(
            self.item_vectors(release),
            release.array(SPECTRUM, np.float32, (self.factors,)),
            self.unobserved_weight,
            self.regularization,
            self.regularization_exponent,
        )


def entries_of(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a manifest says of each part. Raises ReleaseIncompatible for parts that this program cannot serve."""
    with understanding(manifest):
        entries = list(manifest["parts"])
        kinds = [(part["encoder"]["kind"], part["memory"]["kind"]) for part in entries]
        if not kinds or not set(kinds) <= KINDS or RIDGE in kinds[1:]:
            raise ReleaseIncompatible(
                f"release {manifest['release_id']} has the parts {kinds}; this program serves one (ridge, dense) part, "
                "which comes first, and any number of (bag, sparse) and (sessions, sparse)"
            )
        return entries


def part_names(manifest: Mapping[str, Any]) -> list[str]:
    """The names of the parts, in their order."""
    return [str(part["name"]) for part in entries_of(manifest)]


@contextmanager
def understanding(manifest: Mapping[str, Any]) -> Iterator[None]:
    """Turns what goes wrong in reading fields inside the block into ReleaseCorrupt."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReleaseCorrupt(f"the manifest of {manifest.get('release_id')} lacks a field: {error!r}") from error


def read_vectors(files: Release | Draft, names: TableNames, vector_format: str, shape: tuple[int, int]) -> VectorTable:
    """A table of vectors in this format, memory-mapped. Raises ReleaseCorrupt where files are of another."""
    codes = files.array(names.codes, np.dtype(vector_format).type, shape)
    is_float = vector_format == FLOAT32
    return VectorTable(codes, NO_SCALES if is_float else files.array(names.scales, np.float32, shape[:1]))
