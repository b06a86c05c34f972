"""How an index searches, in the words of a manifest and of the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.errors import IndexUnsupported

PRUNED = "Pruned"
"""Exact search, by pruning: engine.pruned_search."""
QUANTIZED = {"Quantized1": 1, "Quantized2": 2}
"""Search over codes of so many bits a coordinate: engine.quantized_search."""
AUTO = "auto"
"""On the command line: whatever keeps the promised recall and is fastest (engine.choice)."""
_EXACT_NAMES = (PRUNED, "Flat")
"""FAISS's name for exact search means ours: releases of version 1 say so."""
RERANK = "rerank"
DEVIATIONS = "deviations"
REACH = "reach"
_OWN = {DEVIATIONS: (-8.0, 8.0, 1.5), REACH: (0.0, 1.0, 1.0)}
"""Of QUANTIZED: the least, the most and what it is if nothing is said."""


@dataclass(frozen=True)
class IndexPlan:
    """PRUNED, one of QUANTIZED, or a FAISS factory string, and search parameters.

    Of QUANTIZED: "deviations=1.5" is how many standard deviations an estimate may be too low, "reach=0.9" how closely a
    row may point where the query does (the largest cosine); more of either finds more. Of FAISS: those that FAISS knows
    ("efSearch=128", "nprobe=64"), and "rerank=R" asks FAISS for R times as many candidates as are wanted, for an index
    that compresses: our own scores decide among them.
    """

    factory: str = PRUNED
    search_parameters: str = ""
    matrix_queries: int = 256
    """From so many queries on, a batch is answered by products of matrices, exactly; fewer are asked one by one."""

    def __str__(self) -> str:
        return f"{self.factory} with {self.search_parameters}" if self.search_parameters else self.factory

    @property
    def is_exact(self) -> bool:
        """Whether engine.pruned_search answers all of it."""
        return self.factory in _EXACT_NAMES

    @property
    def bits(self) -> int:
        """Of a code for a coordinate; 0 where the plan is none of QUANTIZED."""
        return QUANTIZED.get(self.factory, 0)

    @property
    def deviations(self) -> float:
        """Of QUANTIZED. Raises IndexUnsupported for what is no such number."""
        return self._own_number(DEVIATIONS)

    @property
    def reach(self) -> float:
        """Of QUANTIZED. Raises IndexUnsupported for what is no such number."""
        return self._own_number(REACH)

    def require_own_parameters(self) -> None:
        """Raises IndexUnsupported for search parameters that PRUNED, QUANTIZED and AUTO do not have."""
        if self.factory == AUTO and self.search_parameters:
            raise self._unsupported("it finds them itself: expected none, or another --factory")
        if self.is_exact and self.search_parameters:
            raise self._unsupported("it is exact: expected none")
        names = [name for name, _ in self._pairs()]
        if self.bits and (len(set(names)) < len(names) or not set(names) <= set(_OWN)):
            raise self._unsupported(f"expected {DEVIATIONS}=D, {REACH}=R or both, each once and without spaces")
        if self.bits:
            for name in _OWN:
                self._own_number(name)

    @property
    def rerank(self) -> int:
        """Candidates that FAISS is asked for, for each row that is wanted."""
        return next((int(value) for name, value in self._pairs() if name == RERANK and value.isdecimal()), 1)

    @property
    def faiss_parameters(self) -> str:
        """The search parameters that are FAISS's."""
        return ",".join(f"{name}={value}" for name, value in self._pairs() if name != RERANK)

    def _own_number(self, name: str) -> float:
        low, high, default = _OWN[name]
        text = dict(self._pairs()).get(name)
        try:
            number = default if text is None else float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise self._unsupported(f"expected {name} from {low:g} to {high:g}")
        return number

    def _unsupported(self, expected: str) -> IndexUnsupported:
        return IndexUnsupported(
            f"the index {self.factory!r} does not take the search parameters {self.search_parameters!r}; {expected}"
        )

    def _pairs(self) -> list[tuple[str, str]]:
        texts = [each.partition("=") for each in self.search_parameters.split(",") if each]
        return [(name, value) for name, _, value in texts]
