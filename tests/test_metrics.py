"""Every metric against the textbook, one user at a time."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import EvaluationError
from trainer.metrics import parse_metrics, summarize

ALL = "recall@{k},recall@{k}/min,precision@{k},ndcg@{k},mrr@{k},hr@{k}"


@given(
    ranking=st.permutations(range(12)),
    relevant=st.sets(st.integers(0, 15), min_size=1, max_size=10),
    k=st.integers(1, 12),
)
def test_each_metric_is_the_textbooks(ranking, relevant, k):
    hits = np.array([[item in relevant for item in ranking]])
    found = summarize(parse_metrics(ALL.format(k=k)), hits, np.array([len(relevant)]))
    expected = reference.metrics(ranking, relevant, k)
    assert found == pytest.approx(
        {(f"recall@{k}/min" if name == "recall/min" else f"{name}@{k}"): value for name, value in expected.items()}
    )


def test_the_mean_is_over_users():
    hits = np.array([[True, False], [False, False]])
    found = summarize(parse_metrics("recall@2,hr@1"), hits, np.array([1, 4]))
    assert found == {"recall@2": 0.5, "hr@1": 0.5}


def test_the_two_recalls_differ_where_a_user_has_more_test_items_than_places():
    found = summarize(parse_metrics("recall@2,recall@2/min"), np.array([[True, True]]), np.array([10]))
    assert found == {"recall@2": 0.2, "recall@2/min": 1.0}


@pytest.mark.parametrize("names", ["recal@20", "recall", "recall@0", "recall@-1", "ndcg@20/min", "", ",", "hr@1.5"])
def test_an_unknown_metric_is_refused_with_the_known_ones(names):
    with pytest.raises(EvaluationError, match="expected"):
        parse_metrics(names)
