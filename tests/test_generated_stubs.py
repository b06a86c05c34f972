"""A client written against the generated stubs alone, without anything of the engine, keeps working."""

from __future__ import annotations

import subprocess
import sys

from fake_backend import serving

PROGRAM = """
import sys
import grpc
from nearcart.v1 import recommendation_pb2 as wire
from nearcart.v1 import recommendation_pb2_grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
    user = stub.RecommendForUser(wire.RecommendForUserRequest(user_id="user 1", limit=2), timeout=10)
    cart = stub.RecommendForCart(wire.RecommendForCartRequest(item_ids=["item 0", "gone"], limit=1), timeout=10)
    similar = stub.RecommendSimilarItems(wire.RecommendSimilarItemsRequest(item_id="item 0", limit=1), timeout=10)
    users = wire.BatchRecommendForUsersRequest(user_ids=["user 1"] * 2, limit=1)
    users = stub.BatchRecommendForUsers(users, timeout=10)
    carts = [wire.Cart(item_ids=["item 1"], user_id="user 1")]
    carts = stub.BatchRecommendForCarts(wire.BatchRecommendForCartsRequest(carts=carts, limit=2), timeout=10)
    release = stub.GetRelease(wire.GetReleaseRequest(), timeout=10)
    try:
        stub.RecommendForUser(wire.RecommendForUserRequest(limit=0), timeout=10)
    except grpc.RpcError as error:
        refused = error.code()
    print(list(user.item_ids), list(user.scores), user.source == wire.SOURCE_PERSONAL, user.release_id)
    print(list(cart.item_ids), list(cart.unknown_item_ids), cart.source == wire.SOURCE_CART)
    print(list(similar.item_ids), similar.source == wire.SOURCE_SIMILAR)
    print(list(users.item_ids), list(users.counts), list(users.sources))
    print(list(carts.item_ids), list(carts.counts), carts.release_id)
    print(release.release_id, release.item_count, [part.name for part in release.parts], refused)
    print([name for name in sys.modules if name.split(".")[0] in ("engine", "numpy")])
"""


def test_the_stubs_alone_are_a_client() -> None:
    with serving() as server:
        command = [sys.executable, "-c", PROGRAM, server.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "['item 0', 'item 1'] [1.0, 0.0] True release 1",
        "['item 1'] ['gone'] True",
        "['item 1'] True",
        "['item 0', 'item 0'] [1, 1] [1, 1]",
        "['item 0', 'item 2'] [2] release 1",
        "release 1 30 ['als', 'neighbours'] StatusCode.INVALID_ARGUMENT",
        "[]",
    ]
