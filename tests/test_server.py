"""The server as a whole: ports, health, reflection, start and end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_backend import FakeReleases, FakeSnapshot, backend, channel_to, server_options, serving
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from made_certificates import Authority, write_settled
from nearcart.v1 import admin_pb2, admin_pb2_grpc, recommendation_pb2_grpc
from nearcart.v1 import recommendation_pb2 as wire

from engine import admin, service
from engine.addresses import next_port
from engine.errors import ReleaseError, ReleaseNotFound, ServerError, UsageError
from engine.server import Server

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health_of(address: str, name: str) -> int:
    with channel_to(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
        return status


def ask_for_ever(channel: grpc.Channel) -> None:
    """Ask until the port is closed."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{service.NAME}/GetRelease")
    while True:
        call(b"", timeout=10)


def start(releases: FakeReleases | None = None, **options: Any) -> Server:
    """A server that must be refused; it is stopped if it starts after all."""
    server = Server(server_options(**options), backend(releases or FakeReleases()))
    with server:
        return server


def test_health_says_serving_on_both_ports() -> None:
    with serving() as server:
        assert [health_of(server.address, name) for name in ("", service.NAME)] == [SERVING] * 2
        assert [health_of(server.admin_address, name) for name in ("", admin.NAME)] == [SERVING] * 2
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            health_of(server.address, admin.NAME)


def test_health_says_not_serving_and_questions_wait_while_the_first_release_loads() -> None:
    releases = FakeReleases()
    seen: list[int] = []
    codes: list[grpc.StatusCode] = []
    server = Server(server_options(), backend(releases))

    def look(path: Path) -> FakeSnapshot:
        seen.extend((health_of(server.address, ""), health_of(server.admin_address, "")))
        with channel_to(server.address) as channel:
            stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetRelease(wire.GetReleaseRequest(), timeout=10)
            codes.append(caught.value.code())
        return releases.snapshots[path.name]

    server.holder._open = look
    with server:
        assert health_of(server.address, "") == SERVING
    assert seen == [NOT_SERVING, SERVING]
    assert codes == [grpc.StatusCode.UNAVAILABLE]


def test_health_says_not_serving_once_a_file_turns_out_damaged(caplog: pytest.LogCaptureFixture) -> None:
    releases = FakeReleases()
    releases.damaged.add("release 1")
    with serving(releases, verify_after_start=True) as server:
        with channel_to(server.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
            while next(watch).status != NOT_SERVING:
                pass
            watch.cancel()
        assert health_of(server.address, service.NAME) == NOT_SERVING
    assert [record.levelname for record in caplog.records if "damaged" in record.message] == ["CRITICAL"]


def test_reflection_alone_is_enough_to_ask_everything() -> None:
    """With a descriptor pool of its own, so that nothing of the generated code can help."""
    questions: dict[str, dict[str, Any]] = {
        "RecommendForUser": {"user_id": "user 1", "limit": 3, "repeat": "REPEAT_MIX"},
        "RecommendForCart": {"item_ids": ["item 3"]},
        "RecommendSimilarItems": {"item_id": "item 3"},
        "BatchRecommendForUsers": {"user_ids": ["user 1", "user 2"]},
        "BatchRecommendForCarts": {"carts": [{"item_ids": ["item 3"], "user_id": "user 1"}]},
        "GetRelease": {},
        "GetStatus": {},
        "ReloadRelease": {},
        "PromoteRelease": {"release_id": "release 2"},
        "RollbackRelease": {},
    }
    releases = FakeReleases(FakeSnapshot("release 1"), FakeSnapshot("release 2"))
    with serving(releases) as server:
        for address, name in ((server.address, service.NAME), (server.admin_address, admin.NAME)):
            with channel_to(address) as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                assert {name, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} == set(
                    database.get_services()
                )
                for method in DescriptorPool(database).FindServiceByName(name).methods:
                    request = ParseDict(questions.pop(method.name), GetMessageClass(method.input_type)())
                    call: Any = channel.unary_unary(
                        f"/{name}/{method.name}",
                        request_serializer=type(request).SerializeToString,
                        response_deserializer=GetMessageClass(method.output_type).FromString,
                    )
                    assert call(request, timeout=10).release_id in releases.snapshots
                del database
    assert questions == {}


@pytest.mark.parametrize("flag", ["--address", "--admin-address", "--metrics-address"])
def test_a_taken_port_is_refused_with_what_to_do(flag: str) -> None:
    with serving() as server, pytest.raises(ServerError, match=rf"in use.*{flag}") as caught:
        start(None, **{flag.strip("-").replace("-", "_"): server.address})
    assert server.address in str(caught.value)


def test_a_port_taken_by_something_else_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServerError, match="in use"):
        start(address=f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize("address", ["", "50051", ":50051", "localhost:", "localhost:http", "localhost:65536", "a:-1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        start(address=address)


@pytest.mark.parametrize("host", [".a", "a..b", "a" * 64, "\udcff"])
def test_a_host_that_cannot_be_a_name_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a host"):
        start(address=f"{host}:0")


def test_a_host_that_is_not_this_machine_is_refused() -> None:
    with pytest.raises(ServerError, match=r"cannot listen on 192\.0\.2\.1:0"):
        start(address="192.0.2.1:0", allow_plaintext=True)


def test_without_an_admin_address_there_is_no_admin_service() -> None:
    with serving(admin_address="") as server:
        assert server.admin_address == ""
        assert health_of(server.address, "") == SERVING


@pytest.mark.parametrize(
    ("address", "admin_address"),
    [("0.0.0.0:50051", "127.0.0.1:50052"), ("[::1]:0", "127.0.0.1:0"), ("localhost:65535", "127.0.0.1:0")],
)
def test_the_admin_port_is_the_one_after_the_services(address: str, admin_address: str) -> None:
    assert next_port(address) == admin_address


def test_the_admin_service_is_not_on_the_public_port() -> None:
    with serving() as server, channel_to(server.address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{admin.NAME}/GetStatus")
        with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
            call(b"", timeout=10)


def test_the_server_does_not_start_without_a_release_and_frees_its_port() -> None:
    releases = FakeReleases()
    releases.now = None
    with serving() as server:
        address = server.address
    with pytest.raises(ReleaseNotFound, match="nearcart train"):
        start(releases, address=address, admin_address="")
    assert start(address=address, admin_address="").address == address


def test_the_server_does_not_start_on_a_release_that_cannot_be_loaded(caplog: pytest.LogCaptureFixture) -> None:
    releases = FakeReleases()
    releases.failure = MemoryError("no room")
    with pytest.raises(ReleaseError, match="release 1 could not be loaded"):
        start(releases)


def test_calls_in_flight_are_answered_when_the_server_stops() -> None:
    snapshot = FakeSnapshot()
    entered, leave = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert leave.wait(10)

    snapshot.meanwhile = wait
    with serving(FakeReleases(snapshot)) as server, channel_to(server.address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        answer = stub.RecommendForUser.future(wire.RecommendForUserRequest(user_id="user 1"), timeout=10)
        assert entered.wait(10)
        with ThreadPoolExecutor(1) as pool:
            stopping = pool.submit(server.stop)
            with channel_to(server.address) as other, pytest.raises(grpc.RpcError, match=r"UNAVAILABLE|CANCELLED"):
                ask_for_ever(other)
            leave.set()
            stopping.result(10)
        assert len(answer.result().item_ids) == 20


def test_who_watches_health_does_not_hold_up_the_end() -> None:
    with serving() as server, channel_to(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        with ThreadPoolExecutor(1) as pool:
            pool.submit(server.stop).result(timeout=5)
        assert [each.status for each in watch] == [NOT_SERVING]


def test_grpc_drops_a_call_that_waited_past_its_deadline_for_a_thread() -> None:
    """Which docs/operations.md promises and no code of ours does: should a later gRPC stop doing it, we must begin."""
    snapshot = FakeSnapshot()
    entered, leave = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert leave.wait(10)

    snapshot.meanwhile = wait
    with serving(FakeReleases(snapshot), threads=1) as server, channel_to(server.address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        first = stub.RecommendForUser.future(wire.RecommendForUserRequest(user_id="user 1"), timeout=10)
        assert entered.wait(10)
        for user_id in ("user 2", "clock"):  # the second makes sure that the server, too, is past the first's deadline
            with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
                stub.RecommendForUser(wire.RecommendForUserRequest(user_id=user_id), timeout=0.1)
        leave.set()
        first.result()
        stub.RecommendForUser(wire.RecommendForUserRequest(user_id="user 3"), timeout=10)
    assert {query.user_id for query in snapshot.asked} - {"clock"} == {"user 1", "user 3"}  # type: ignore[union-attr]


PROGRAM = """
import signal, sys, threading
from pathlib import Path
from fake_backend import FakeReleases, FakeSnapshot, backend, server_options
import engine.server

class Server(engine.server.Server):
    def start(self):
        super().start()
        print(self.admin_address, flush=True)

def never_ends(what):
    print(what, flush=True)
    threading.Event().wait()

releases = FakeReleases(FakeSnapshot("release 1"), FakeSnapshot("release 2"))
open_snapshot = releases.open
releases.open = lambda path, watch: never_ends("loading") if path.name == sys.argv[2] else open_snapshot(path)
if sys.argv[2] == "answer":
    releases.snapshots["release 1"].meanwhile = lambda: never_ends("answering")
elif sys.argv[2] == "verify":
    releases.verify = lambda release_id: threading.Event().wait()
engine.server.Server = Server
engine.server.STOP_GRACE_SECONDS = 0.1
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as for the first process of a container
options = server_options(drain_seconds=float(sys.argv[1]), verify_after_start=sys.argv[2] == "verify")
engine.server.run_server(options, backend=backend(releases))
print("stopped", flush=True)
"""


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A server of the fake shop; the parameters are how long it drains, and what in it never ends."""
    drain_seconds, endless = request.param if isinstance(request.param, tuple) else (request.param, "nothing")
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tests, tests.parent, tests.parent / "proto")))}
    command = [sys.executable, "-c", PROGRAM, str(drain_seconds), endless]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def addresses(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Of the admin service and of the service, once it answers."""
    return next_line(process), next_line(process)


SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.mark.parametrize("process", [0], indirect=True)
@SIGNALS
def test_a_signal_ends_the_server_cleanly(process: subprocess.Popen[str], number: signal.Signals) -> None:
    _, address = addresses(process)
    assert health_of(address, "") == SERVING
    process.send_signal(number)
    rest, log = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "stopped\n")
    assert "Traceback" not in log


@pytest.mark.parametrize("process", [(300, "release 1")], indirect=True)
@SIGNALS
def test_a_signal_during_the_first_load_ends_the_server_without_draining(
    process: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert next_line(process) == "loading"
    process.send_signal(number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in log


@pytest.mark.parametrize("process", [(0, "release 2")], indirect=True)
def test_a_load_that_an_administrator_began_does_not_hold_up_the_end(process: subprocess.Popen[str]) -> None:
    admin_address, _ = addresses(process)
    with channel_to(admin_address) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        promoting = stub.PromoteRelease.future(admin_pb2.PromoteReleaseRequest(release_id="release 2"), timeout=60)
        assert next_line(process) == "loading"
        process.terminate()
        assert process.wait(60) == 0
        assert promoting.exception() is not None


@pytest.mark.parametrize("process", [(0, "answer")], indirect=True)
def test_an_answer_that_takes_longer_than_the_grace_period_does_not_hold_up_the_end(
    process: subprocess.Popen[str],
) -> None:
    _, address = addresses(process)
    with channel_to(address) as channel:
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        asking = stub.RecommendForUser.future(wire.RecommendForUserRequest(user_id="user 1"), timeout=60)
        assert next_line(process) == "answering"
        process.terminate()
        assert process.wait(60) == 0
        assert asking.exception() is not None


@pytest.mark.parametrize("process", [(0, "verify")], indirect=True)
def test_a_check_of_files_does_not_hold_up_the_end(process: subprocess.Popen[str]) -> None:
    addresses(process)
    process.terminate()
    assert process.wait(60) == 0


@pytest.mark.parametrize("process", [300], indirect=True)
def test_draining_says_not_serving_but_goes_on_answering_until_a_second_signal(
    process: subprocess.Popen[str],
) -> None:
    _, address = addresses(process)
    with channel_to(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        process.terminate()
        assert next(watch).status == NOT_SERVING
        stub = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        assert stub.GetRelease(wire.GetReleaseRequest(), timeout=10).release_id == "release 1"
        process.terminate()
        assert process.wait(60) == 0


def test_tokens_guard_both_services_by_role(transport: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("query question-question-1\nadmin administration-22\n")
    file.chmod(0o600)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(transport=transport, tokens=file))
        channel, admin_channel = (
            stack.enter_context(channel_to(address)) for address in (server.address, server.admin_address)
        )
        question = recommendation_pb2_grpc.RecommendationServiceStub(channel).RecommendForUser
        status = admin_pb2_grpc.AdminServiceStub(admin_channel).GetStatus

        def outcome(token: str | None, method: Any, request: Any) -> str:
            metadata = [] if token is None else [("authorization", f"Bearer {token}")]
            try:
                method(request, timeout=10, metadata=metadata)
            except grpc.RpcError as error:
                return str(error.code().name)  # type: ignore[attr-defined]
            return "OK"

        asked = [
            (outcome(token, question, wire.RecommendForUserRequest(user_id="user 1")),
             outcome(token, status, admin_pb2.GetStatusRequest()))
            for token in (None, "wrong-wrong-wrong", "question-question-1", "administration-22")
        ]  # fmt: skip
        assert asked == [
            ("UNAUTHENTICATED", "UNAUTHENTICATED"),
            ("UNAUTHENTICATED", "UNAUTHENTICATED"),
            ("OK", "PERMISSION_DENIED"),
            ("OK", "OK"),
        ]
        assert health_of(server.address, "") == SERVING


def test_with_a_certificate_only_tls_is_spoken(tmp_path: Path) -> None:
    authority = Authority()
    pair, certificate, key = authority.issue(), tmp_path / "server.pem", tmp_path / "server.key"
    write_settled(certificate, pair.certificate)
    write_settled(key, pair.key)
    key.chmod(0o600)
    with serving(tls_certificate=certificate, tls_key=key) as server:
        credentials = grpc.ssl_channel_credentials(authority.certificate)
        for address in (server.address, server.admin_address):
            name = ("grpc.ssl_target_name_override", "localhost")
            with grpc.secure_channel(address, credentials, [name, ("grpc.use_local_subchannel_pool", 1)]) as channel:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            with channel_to(address) as channel, pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
