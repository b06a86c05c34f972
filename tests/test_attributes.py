"""Attributes as a release holds them: what was written comes back, and how it lies on the disk."""

from __future__ import annotations

import itertools

import made_filters
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_release import lists_of, publish, small_shop

from engine.attributes import Dates, Lists, add_attributes, appended, kind_of, read_attributes
from engine.errors import ReleaseCorrupt
from engine.ids import StringTable
from engine.release import Draft, Release
from engine.repository import Repository

FIELDS = {"sizes": {}, "parts": [], "index": {}, "created_at": ""}


def written(root, attributes):
    """A release of nothing but attributes."""
    with Draft(root, "20260101T000000.000Z-000000") as draft:
        draft.finish({**FIELDS, "attributes": add_attributes(draft, attributes)})
        return Release(draft.directory.rename(root / draft.release_id))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8).flatmap(lambda n: st.tuples(st.just(n), made_filters.attributes(n))))
def test_attributes_of_every_kind_come_back(tmp_path_factory, drawn):
    n_items, attributes = drawn
    release = written(tmp_path_factory.mktemp("release"), attributes)
    read = read_attributes(release, n_items)
    assert {name: kind_of(each) for name, each in read.items()} == made_filters.NAMES
    np.testing.assert_array_equal(read["price"], attributes["price"])
    np.testing.assert_array_equal(read["giftable"], attributes["giftable"])
    np.testing.assert_array_equal(read["added"].seconds, attributes["added"].seconds)
    np.testing.assert_array_equal(read["tags"].starts, attributes["tags"].starts)
    for found, expected in ((read["category"], attributes["category"]), (read["tags"].texts, attributes["tags"].texts)):
        assert found.take(np.arange(len(found))) == expected.take(np.arange(len(expected)))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.booleans(), st.data())
def test_an_attribute_continued_holds_the_values_of_both(n_items, n_more, knows, data):
    old, more = data.draw(made_filters.attributes(n_items)), data.draw(made_filters.attributes(n_more))
    for name, attribute in old.items():
        both = appended(attribute, more[name] if knows else None, n_more)
        assert kind_of(both) == kind_of(attribute)
        missing = {"text": "", "list": [], "number": None, "boolean": False, "date": None}[kind_of(attribute)]
        assert plain(both) == plain(attribute) + (plain(more[name]) if knows else [missing] * n_more)


def plain(attribute):
    """The values as Python has them."""
    match attribute:
        case StringTable():
            return attribute.take(np.arange(len(attribute)))
        case Lists():
            texts = attribute.texts.take(np.arange(len(attribute.texts)))
            return [texts[start:stop] for start, stop in itertools.pairwise(attribute.starts.tolist())]
        case Dates():
            return plain(attribute.seconds)
        case _:
            return [None if value != value else value for value in attribute.tolist()]


def test_dates_and_lists_lie_on_the_disk_as_documented(tmp_path):
    added = Dates(np.array([0.0, np.nan, 1_700_000_000.25]))
    release = written(tmp_path, {"added": added, "tags": lists_of([["a", "bc"], [], ["é"]])})
    assert release.manifest["attributes"] == [{"name": "added", "kind": "date"}, {"name": "tags", "kind": "list"}]
    folder = release.directory / "items" / "attributes"
    assert sorted(path.name for path in folder.iterdir()) == [
        "0.npy",
        "1.data.npy",
        "1.offsets.npy",
        "1.starts.npy",
    ]
    seconds = bytes.fromhex("0000000000000000 000000000000f87f 00001040fc54d941")
    assert (folder / "0.npy").read_bytes()[128:] == seconds
    assert (folder / "1.data.npy").read_bytes()[128:] == "abcé".encode()
    assert np.load(folder / "1.offsets.npy").tolist() == [0, 1, 3, 5]
    assert np.load(folder / "1.starts.npy").tolist() == [0, 2, 2, 3]
    assert {np.load(folder / f"1.{name}.npy").dtype for name in ("offsets", "starts")} == {np.dtype("<i8")}


def test_a_kind_of_a_later_program_is_left_alone(tmp_path):
    with Draft(tmp_path, "20260101T000000.000Z-000000") as draft:
        described = add_attributes(draft, {"colour": StringTable.of(["red"]), "price": np.array([1.0])})
        draft.finish({**FIELDS, "attributes": [{**described[0], "kind": "paint"}, described[1]]})
        release = Release(draft.directory.rename(tmp_path / draft.release_id))
    assert list(read_attributes(release, 1)) == ["price"]


def test_lists_that_lead_nowhere_are_refused(tmp_path):
    lists = lists_of([["a"], ["b"]])
    lists.starts[0] = 1
    with pytest.raises(ReleaseCorrupt, match=r"starts\.npy leads from 1 to 2"):
        read_attributes(written(tmp_path, {"tags": lists}), 2)


def test_a_published_release_names_the_kinds_of_its_attributes(tmp_path):
    repository = Repository(tmp_path)
    publish(repository, small_shop())
    kinds = {each["name"]: each["kind"] for each in Release(repository.current_path()).manifest["attributes"]}
    assert kinds == {"title": "text", **made_filters.NAMES}
