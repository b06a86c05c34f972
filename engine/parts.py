"""What a manifest says of the parts of its recommender, as far as this program can serve them.

A recommender is a weighted sum of (query encoder, item memory) pairs. This version serves one pair, ridge over dense;
snapshots and index rebuilds read the manifest here, so that they agree on what that is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.encoders import RidgeEncoder
from engine.errors import ReleaseCorrupt, ReleaseIncompatible
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


USERS = TableNames("parts/0/user_vectors", "parts/0/user_scales")
ITEMS = TableNames("parts/0/item_vectors", "parts/0/item_scales")
SPECTRUM = "parts/0/spectrum"
EXPORT_ROTATION = "parts/0/export_rotation"


@dataclass(frozen=True)
class DensePart:
    """Sizes, the encoder's parameters and the index of a release with one (ridge, dense) part."""

    n_users: int
    n_items: int
    n_entries: int
    factors: int
    vectors: str
    """Their format, one of engine.vector_formats.FORMATS."""
    unobserved_weight: float
    regularization: float
    regularization_exponent: float
    plan: IndexPlan

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> DensePart:
        """Read a manifest. Raises ReleaseIncompatible for other parts, ReleaseCorrupt where a field is missing."""
        try:
            parts, sizes, index = manifest["parts"], manifest["sizes"], manifest["index"]
            kinds = [(part["encoder"]["kind"], part["memory"]["kind"]) for part in parts]
            if kinds != [("ridge", "dense")]:
                raise ReleaseIncompatible(
                    f"release {manifest['release_id']} has the parts {kinds}; "
                    "this program serves one (ridge, dense) part"
                )
            encoder, vectors = parts[0]["encoder"], parts[0].get("vectors", FLOAT32)
            if vectors not in FORMATS:
                raise ReleaseIncompatible(
                    f"release {manifest['release_id']} has its vectors in the format {vectors!r}; "
                    f"this program reads {', '.join(FORMATS)}"
                )
            return cls(
                n_users=int(sizes["users"]),
                n_items=int(sizes["items"]),
                n_entries=int(sizes["entries"]),
                factors=int(parts[0]["memory"]["factors"]),
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
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseCorrupt(f"the manifest of {manifest.get('release_id')} lacks a field: {error!r}") from error

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


def read_vectors(files: Release | Draft, names: TableNames, vector_format: str, shape: tuple[int, int]) -> VectorTable:
    """A table of vectors in this format, memory-mapped. Raises ReleaseCorrupt where files are of another."""
    codes = files.array(names.codes, np.dtype(vector_format).type, shape)
    is_float = vector_format == FLOAT32
    return VectorTable(codes, NO_SCALES if is_float else files.array(names.scales, np.float32, shape[:1]))
