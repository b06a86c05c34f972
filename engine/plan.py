"""How an index searches, in the words of a manifest and of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import IndexUnsupported

PRUNED = "Pruned"
"""Search by pruning, engine.pruned_search: exact, or nearly so with the search parameter "confidence=C"."""
AUTO = "auto"
"""On the command line: whatever keeps the promised recall and is fastest (engine.choice)."""
_EXACT_NAMES = (PRUNED, "Flat")
"""FAISS's name for exact search means ours: releases of version 1 say so."""
RERANK = "rerank"


@dataclass(frozen=True)
class IndexPlan:
    """PRUNED, or a FAISS factory string, and search parameters: "confidence=0.6" of the one, FAISS's of the other.

    Beside those that FAISS knows ("efSearch=128", "nprobe=64"), "rerank=R" asks FAISS for R times as many candidates as
    are wanted, for an index that compresses: our own scores decide among them.
    """

    factory: str = PRUNED
    search_parameters: str = ""
    matrix_queries: int = 256
    """From so many queries on, a batch is answered by products of matrices; fewer are asked one by one."""

    def __str__(self) -> str:
        return f"{self.factory} with {self.search_parameters}" if self.search_parameters else self.factory

    @property
    def is_pruned(self) -> bool:
        """Whether engine.pruned_search answers it."""
        return self.factory in _EXACT_NAMES

    @property
    def confidence(self) -> float:
        """What pruning counts of a tail's bound; 1 is exact. Raises IndexUnsupported where it is no such number."""
        text = self.search_parameters.removeprefix("confidence=")
        try:
            confidence = float(text) if self.search_parameters else 1.0
        except ValueError:
            confidence = -1.0
        if not 0 <= confidence <= 1 or (self.search_parameters and text == self.search_parameters):
            raise self._unsupported("expected 'confidence=C' with C from 0 to 1 (exact), or none")
        return confidence

    def require_own_parameters(self) -> None:
        """Raises IndexUnsupported for search parameters that PRUNED does not have; AUTO finds its own."""
        if self.factory == AUTO and self.search_parameters:
            raise self._unsupported("it finds them itself: expected none, or another --factory")
        if self.is_pruned:
            self.confidence  # noqa: B018 - raises

    @property
    def rerank(self) -> int:
        """Candidates that FAISS is asked for, for each row that is wanted."""
        return next((int(value) for name, value in self._pairs() if name == RERANK and value.isdecimal()), 1)

    @property
    def faiss_parameters(self) -> str:
        """The search parameters that are FAISS's."""
        return ",".join(f"{name}={value}" for name, value in self._pairs() if name != RERANK)

    def _unsupported(self, expected: str) -> IndexUnsupported:
        return IndexUnsupported(
            f"the index {self.factory!r} has no search parameters {self.search_parameters!r}; {expected}"
        )

    def _pairs(self) -> list[tuple[str, str]]:
        texts = [each.partition("=") for each in self.search_parameters.split(",") if each]
        return [(name, value) for name, _, value in texts]
