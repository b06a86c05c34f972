"""The wire contract: linted, generated code up to date, comments and documentation in step with the code."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor
from nearcart.v1 import admin_pb2, recommendation_pb2

from engine import filters, queries
from engine.ids import MAX_ID_BYTES
from engine.statuses import INTERNAL, STATUSES, UNDECODABLE
from engine.violations import MAX_VIOLATIONS

ROOT = Path(__file__).parent.parent
PROTO = ROOT / "proto"
FILES = (recommendation_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR)
# Whoever generates with a newer compiler than was committed gets these, and nothing else, different.
VERSIONS = re.compile(
    r"# Protobuf Python Version: .*|GRPC_GENERATED_VERSION = .*|(?<=Domain\.PUBLIC,)\s+\d+,\s+\d+,\s+\d+"
)


def run_buf(cache: Path, *arguments: str, cwd: Path = ROOT) -> tuple[int, str]:
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    environment = {**os.environ, "BUF_CACHE_DIR": str(cache)}
    done = subprocess.run([buf, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_buf_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    assert run_buf(tmp_path, "lint") == (0, "")


@pytest.mark.parametrize(
    ("found", "replacement", "complaint"),
    [
        ("  bool strict = 6;\n", "  bool strict = 6;\n  // Which shop.\n  string shop = 99;\n", ""),
        ("bool strict = 6;", "bool exact = 6;", 'Field "6" with name "exact"'),
    ],
    ids=["a field may be added", "a field may not be renamed"],
)
def test_the_wire_may_grow_but_not_break(tmp_path: Path, found: str, replacement: str, complaint: str) -> None:
    """What a later change must keep to, by `buf breaking` with the contract of today as the baseline."""
    later = tmp_path / "later"
    for name in ("nearcart/v1/recommendation.proto", "nearcart/v1/admin.proto"):
        (later / "proto" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROTO / name, later / "proto" / name)
    shutil.copy(ROOT / "buf.yaml", later)
    file = later / "proto/nearcart/v1/recommendation.proto"
    text = file.read_text()
    assert found in text
    file.write_text(text.replace(found, replacement))
    code, output = run_buf(tmp_path / "cache", "breaking", "--against", str(ROOT), cwd=later)
    assert (code != 0) == bool(complaint), output
    assert complaint in output


def test_generated_code_is_what_the_proto_files_give(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate", PROTO / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.generate(tmp_path)
    fresh = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*.py*")}
    assert len(fresh) == 8
    for name, path in fresh.items():
        committed = VERSIONS.sub("", (PROTO / name).read_text())
        assert committed == VERSIONS.sub("", path.read_text()), f"{name} is stale: run `make proto`"


def test_nothing_above_the_generated_code_is_a_regular_package() -> None:
    assert not (PROTO / "__init__.py").exists()
    assert not (PROTO / "nearcart" / "__init__.py").exists()


@pytest.mark.parametrize(
    "text",
    [
        f"1 to {queries.MAX_LIMIT}; 0, negative",
        f"Unset means {queries.DEFAULT_LIMIT}.",
        f"at most {queries.MAX_CART_ITEMS}, more get",
        f"1 to {queries.MAX_CART_ITEMS}; none or more get",
        f"1 to {queries.MAX_BATCH_QUERIES}; none or more get",
        f"limit exceed {queries.MAX_BATCH_ANSWERS}.",
        f"1 to {MAX_ID_BYTES} bytes",
        f"the first {MAX_VIOLATIONS} of them",
        f"at most {filters.MAX_FILTER_CONDITIONS} conditions",
        f"1 to {filters.MAX_FILTER_CONDITIONS - 1}; none or more get",
        f"{filters.MAX_FILTER_DEPTH} within one another",
        f"at most {filters.MAX_FILTER_VALUES} values in all",
        f"1 to {filters.MAX_FILTER_VALUES} of 1 to {filters.MAX_TEXT_BYTES} bytes",
    ],
)
def test_comments_quote_the_limits_of_the_code(text: str) -> None:
    comments = re.sub(r"\s*\n\s*// ?", " ", (PROTO / "nearcart/v1/recommendation.proto").read_text())
    assert text in comments


def test_every_question_is_restricted_alike() -> None:
    messages = recommendation_pb2.DESCRIPTOR.message_types_by_name
    questions = [message for message in messages.values() if "limit" in message.fields_by_name]
    assert len(questions) == 5
    for question in questions:
        fields = {name: field.number for name, field in question.fields_by_name.items()}
        assert (fields["exclude_item_ids"], fields["filter"], fields["allowed_item_ids"]) == (3, 7, 9)
    # A reserved number or name could not be taken later: buf holds that reservations stay.
    assert "reserved" not in (PROTO / "nearcart/v1/recommendation.proto").read_text()


def test_every_answer_carries_the_same_columns() -> None:
    messages = recommendation_pb2.DESCRIPTOR.message_types_by_name
    shares = ["share_item_ids", "shares"]
    for name in ("RecommendForUser", "RecommendForCart", "RecommendSimilarItems"):
        fields = messages[f"{name}Response"].fields_by_name
        assert list(fields) == ["item_ids", "scores", "source", "release_id", "unknown_item_ids", "titles", *shares]
        assert fields["scores"].type == FieldDescriptor.TYPE_FLOAT
    for name in ("BatchRecommendForUsers", "BatchRecommendForCarts"):
        fields = messages[f"{name}Response"].fields_by_name
        assert list(fields) == ["item_ids", "scores", "counts", "sources", "release_id", "unknown_item_ids"]


def test_every_rpc_and_request_field_is_documented() -> None:
    text = (ROOT / "docs" / "wire.md").read_text()
    for file in FILES:
        for service in file.services_by_name.values():
            assert service.full_name in text
            for method in service.methods:
                assert f"`{method.name}`" in text
                for field in method.input_type.fields_by_name:
                    assert f"`{field}`" in text, f"{method.input_type.name}.{field}"


def test_every_status_and_reason_is_documented() -> None:
    text = (ROOT / "docs" / "wire.md").read_text()
    for code, reason in (*STATUSES.values(), UNDECODABLE, INTERNAL):
        assert re.search(rf"\| {code.name} \| `{reason}` \|", text), f"{code.name} {reason}"
