"""Fixtures that several test files share: the small release, published once, and a copy to break; each transport."""

from __future__ import annotations

import shutil

import pytest
from small_release import publish, small_shop

from engine.repository import Repository
from engine.retrieval import Snapshot


@pytest.fixture(scope="session")
def shop():
    return small_shop()


@pytest.fixture(scope="session")
def small_repository(shop, tmp_path_factory):
    """A repository with the small release, live. Shared: read only."""
    repository = Repository(tmp_path_factory.mktemp("small"))
    publish(repository, shop)
    return repository


@pytest.fixture(scope="session")
def snapshot(small_repository):
    return Snapshot.open(small_repository.current_path())


@pytest.fixture(scope="session")
def native():
    """For tests of what the extra brings alone."""
    return pytest.importorskip("pygrpc_native", reason="the extra nearcart[native] is not installed")


@pytest.fixture(scope="session", params=["grpcio", "native"])
def transport(request):
    """The name of each transport that is installed."""
    if request.param == "native":
        request.getfixturevalue("native")
    return request.param


@pytest.fixture
def repository(small_repository, tmp_path):
    """A copy of the small repository, for a test to change."""
    return Repository(shutil.copytree(small_repository.root, tmp_path / "releases"))
