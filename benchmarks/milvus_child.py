"""Milvus in an environment of its own: started, filled and asked by lines of JSON; the other end is milvus_rival.py.

Imports nothing of ours, because nothing of ours is installed there. Its arguments: a folder with items.npy and
users.npy, the server's core, the load's core, and k. Ends, and ends its server, when standard input does.
"""

import base64
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
from milvus import MilvusServer
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections, utility
from pymilvus.client.prepare import Prepare
from pymilvus.grpc_gen import milvus_pb2

NAME, FIELD = "items", "vector"
BUILD = {"index_type": "HNSW", "metric_type": "IP", "params": {"M": 16, "efConstruction": 200}}
AT_ONCE = 10_000


def main():
    folder, server_core, load_core, k = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    # Milvus and its client may print; answers go where nobody else writes.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    users = np.load(folder / "users.npy")
    everywhere = os.sched_getaffinity(0)

    def tell(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    began = time.perf_counter()
    server = started(folder)
    try:
        fill(np.load(folder / "items.npy", mmap_mode="r"))
        facts = {"version": utility.get_server_version(), "build_seconds": time.perf_counter() - began}
        stop(server)
        tell(library="Milvus", milvus_index=f"{BUILD['index_type']} {BUILD['params']}", **facts)
        for line in sys.stdin:
            command = json.loads(line)
            what = command.pop("do")
            if what == "start":
                os.sched_setaffinity(0, {server_core})
                server = started(folder)
                os.sched_setaffinity(0, everywhere)
                collection = Collection(NAME)
                collection.load()
                os.sched_setaffinity(0, {load_core})
                tell(address=f"{server.server_address}:{server.listen_port}")
            elif what == "ask":
                tell(**ask(collection, users, k, **command))
            elif what == "encode":
                tell(requests=[base64.b64encode(each).decode() for each in encoded(users, k, **command)])
            elif what == "decode":
                tell(rows=[decoded(base64.b64decode(each)) for each in command["answers"]])
            else:
                stop(server)
                tell()
    finally:
        server.stop()


def started(folder):
    server = MilvusServer()
    server.set_base_dir(str(folder / "milvus"))
    server.start()
    connections.connect(host=server.server_address, port=server.listen_port)
    return server


def stop(server):
    connections.disconnect("default")
    server.stop()


def fill(items):
    fields = [FieldSchema("id", DataType.INT64, is_primary=True)]
    fields.append(FieldSchema(FIELD, DataType.FLOAT_VECTOR, dim=items.shape[1]))
    collection = Collection(NAME, CollectionSchema(fields), shards_num=1)
    for start in range(0, len(items), AT_ONCE):
        block = np.asarray(items[start : start + AT_ONCE])
        collection.insert([list(range(start, start + len(block))), list(block)])
    collection.flush()
    collection.create_index(FIELD, BUILD)
    utility.wait_for_index_building_complete(NAME)
    assert collection.num_entities == len(items), f"{collection.num_entities} of {len(items)} items are in Milvus"


def ask(collection, users, k, threads, seconds, ef):
    """All users in turn, by so many threads at once, for so long, once at least."""
    param = {"metric_type": "IP", "params": {"ef": ef}}
    taken, found, places = [], {}, iter(range(1 << 62))
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                turn = next(places)
            if turn >= len(users) and time.perf_counter() > until:
                return
            user = turn % len(users)
            before = time.perf_counter()
            hits = collection.search([users[user]], FIELD, param, limit=k, consistency_level="Eventually")[0]
            taken.append(time.perf_counter() - before)
            found[user] = list(hits.ids)

    began = time.perf_counter()
    until = began + seconds
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    whole = time.perf_counter() - began
    p50, p99 = np.percentile(np.array(taken) * 1e3, (50, 99))
    return {
        "loop": "closed",
        "achieved": len(taken) / whole,
        "calls": len(taken),
        "in_flight_mean": sum(taken) / whole,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "us_a_call": whole / len(taken) * 1e6,
        "answers": sorted(found.items()),
    }


def encoded(users, k, ef):
    """The requests that the client would send."""
    param = {"metric_type": "IP", "params": {"ef": ef}}
    for user in users:
        yield Prepare.search_requests_with_expr(
            NAME, [user], FIELD, param, k, None, consistency_level=3, guarantee_timestamp=1
        ).SerializeToString()


def decoded(payload):
    results = milvus_pb2.SearchResults.FromString(payload)
    assert results.status.error_code == 0, results.status
    return list(results.results.ids.int_id.data)
