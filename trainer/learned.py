"""What a training learns: the parts of a recommender, in the engine's own values, whichever model made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kinds import ByKind
from engine.sparse_part import SparsePart
from trainer.als import Embeddings
from trainer.errors import EvaluationError
from trainer.metrics import Metric

DENSE_NAME = "als"
"""Of the part of vectors."""
BOTH = ByKind(1.0, 1.0)


@dataclass(frozen=True)
class Learned:
    """Vectors, or None, with what their scores count; sparse parts; and what the manifest tells about them.

    ages uint16, in the order of the users' entries: how old each is, None where no part asks (engine.evidence).
    """

    embeddings: Embeddings | None
    sparse: tuple[SparsePart, ...] = ()
    dense_weight: ByKind = BOTH
    ages: NDArray[np.uint16] | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def item_vectors(self) -> NDArray[np.float32]:
        """Float32 (n_items, d); (0, 0) where there are none."""
        return np.empty((0, 0), dtype=np.float32) if self.embeddings is None else self.embeddings.item_vectors

    def require_vectors(self, metrics: Sequence[Metric]) -> None:
        """Raises EvaluationError for metrics that compare vectors, where there are none."""
        for metric in metrics:
            if metric.kind == "diversity" and self.embeddings is None:
                raise EvaluationError(
                    f"{metric.name} compares the vectors of items, and no part that counts has any: expected --model "
                    "als, or other metrics"
                )
