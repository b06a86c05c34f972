"""Requests of every shape against the methods themselves: documented statuses only, and no fault in the log.

Messages are made from their descriptors, field by field, with values that break things (NaN, infinities, numbers at
the ends of their ranges, long and repeated texts, filters in filters), and some of their bytes are changed then.
For longer: `FUZZ_EXAMPLES=100000 python -m pytest --timeout 0 tests/test_request_fuzz.py`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nearcart.v1 import recommendation_pb2 as wire

from engine.call_metrics import CallMetrics
from engine.service import RecommendationService

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
METHODS = wire.DESCRIPTOR.services_by_name["RecommendationService"].methods_by_name
STATUSES = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}
DEEPEST = 6
NUMBERS = [0.0, -0.0, 1.0, -1e-300, 1e308, math.inf, -math.inf, math.nan]
WHOLE = [0, 1, 2, 20, 1000, 1001, -1, 2**31 - 1, -(2**31)]
TEXTS = ["", "u1", "i01", "price", "category", "cups", "\0", "ü€😀", "x" * 513, "1e400", "nan", "..", "../../etc"]
FIELD = FieldDescriptor

Values = st.SearchStrategy[Any]
GOOD: dict[int, Values] = {
    FIELD.CPPTYPE_STRING: st.sampled_from(["u1", "u2", "i01", "i02", "price"]),
    FIELD.CPPTYPE_BOOL: st.booleans(),
    FIELD.CPPTYPE_DOUBLE: st.sampled_from([0.5, 2.0]),
    FIELD.CPPTYPE_FLOAT: st.sampled_from([0.5, 2.0]),
    FIELD.CPPTYPE_ENUM: st.sampled_from([0, 1, 2]),
    **dict.fromkeys(
        (FIELD.CPPTYPE_INT32, FIELD.CPPTYPE_INT64, FIELD.CPPTYPE_UINT32, FIELD.CPPTYPE_UINT64), st.sampled_from([1, 5])
    ),
}
"""Values that a request may have: without them nothing would be asked of what lies behind the checks."""
SCALARS: dict[int, Values] = {
    FIELD.TYPE_STRING: st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    FIELD.TYPE_BYTES: st.binary(max_size=20),
    FIELD.TYPE_BOOL: st.booleans(),
    FIELD.TYPE_DOUBLE: st.sampled_from(NUMBERS) | st.floats(),
    FIELD.TYPE_FLOAT: st.sampled_from([each for each in NUMBERS if abs(each) < 1e38 or not math.isfinite(each)]),
    FIELD.TYPE_ENUM: st.sampled_from(WHOLE),
}


def whole_numbers(field: FIELD) -> Values:
    if field.cpp_type in (FIELD.CPPTYPE_UINT32, FIELD.CPPTYPE_UINT64):
        return st.sampled_from([abs(each) for each in WHOLE])
    return st.sampled_from(WHOLE)


def times_of(field: FIELD) -> st.SearchStrategy[int]:
    """How often a repeated field comes, and once in a while very often."""
    return st.integers(0, 3) | st.just(2_000 if field.type != FIELD.TYPE_MESSAGE else 200)


@st.composite
def messages(draw: Callable[..., Any], descriptor: Descriptor, depth: int, is_good: bool) -> Any:
    """A message with some of its fields."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        is_left_out = draw(st.integers(0, 2)) == 0
        if is_good:  # a good one names what it must, hardly anything else, and no release
            is_left_out = field.name not in ("user_id", "item_id", "item_ids", "user_ids", "carts", "attribute")
            is_left_out = is_left_out and (field.name == "release_id" or draw(st.integers(0, 3)) > 0)
        if is_left_out:
            continue
        if field.type == FIELD.TYPE_MESSAGE:
            if depth >= DEEPEST:
                continue
            values = messages(field.message_type, depth + 1, is_good)
        elif is_good:
            values = GOOD[field.cpp_type]
        else:
            values = SCALARS[field.type] if field.type in SCALARS else whole_numbers(field)
        if field.is_repeated:
            # The same one many times: drawing each would take the time that others want.
            one, times = draw(values), 1 if is_good else draw(times_of(field))
            getattr(message, field.name).extend([one] * times)
        elif field.type == FIELD.TYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(draw(values))
        else:
            setattr(message, field.name, draw(values))
    return message


@st.composite
def payloads(draw: Callable[..., Any], descriptor: Descriptor) -> bytes:
    """The bytes of a message, of which some may be other ones."""
    data = bytearray(draw(messages(descriptor, 0, draw(st.booleans()))).SerializeToString())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


@pytest.mark.parametrize("name", METHODS)
def test_only_documented_statuses(name: str, snapshot: Any, caplog: pytest.LogCaptureFixture) -> None:
    answer = RecommendationService(lambda release_id: snapshot, CallMetrics()).methods()
    path = f"/{METHODS[name].containing_service.full_name}/{name}"
    response = GetMessageClass(METHODS[name].output_type)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(payloads(METHODS[name].input_type))
    def fuzz(payload: bytes) -> None:
        (outcome,) = answer[path]([payload])
        if isinstance(outcome, bytes):
            response.FromString(outcome)
        else:
            assert outcome.code in STATUSES
            assert "Traceback" not in outcome.message

    with caplog.at_level(logging.WARNING):
        fuzz()
    assert not caplog.records, "a client's mistake is no fault of the server's"


def test_a_filter_far_deeper_than_is_allowed_is_refused(snapshot: Any) -> None:
    answer = RecommendationService(lambda release_id: snapshot, CallMetrics()).methods()
    deep = wire.Filter(exists=wire.AttributeExists(attribute="price"))
    for _ in range(45):
        deep = wire.Filter(**{"not": deep})
    request = wire.RecommendForUserRequest(user_id="u1", filter=deep)
    (outcome,) = answer["/nearcart.v1.RecommendationService/RecommendForUser"]([request.SerializeToString()])
    assert not isinstance(outcome, bytes)
    assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT
