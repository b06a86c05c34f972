"""TLS of real servers: who is let in, certificates that change while running, and files that are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from made_certificates import Authority, Pair, write_settled

from engine.certificates import ServerTls
from engine.errors import UsageError

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Files:
    """The three files of a server, and the clock that its looks go by."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.certificate, self.key, self.client_ca = (folder / name for name in ("tls.crt", "tls.key", "ca.crt"))

    def put(self, pair: Pair) -> None:
        write_settled(self.certificate, pair.certificate)
        write_settled(self.key, pair.key)
        self.key.chmod(0o600)

    def tls(self, *, mutual: bool = False) -> ServerTls:
        return ServerTls(self.certificate, self.key, self.client_ca if mutual else None)

    def pass_time(self) -> None:
        self.clock.seconds += 1


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@contextmanager
def serving(*credentials: grpc.ServerCredentials) -> Iterator[list[str]]:
    """A server that echoes, with a port for each of the credentials."""
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    echo = {"Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", echo),))
    addresses = [f"localhost:{server.add_secure_port('localhost:0', each)}" for each in credentials]
    server.start()
    try:
        yield addresses
    finally:
        server.stop(0).wait()


def ask(channel: grpc.Channel) -> grpc.StatusCode:
    asked = channel.unary_unary("/echo/Echo").future(b"question", timeout=20)
    return asked.code()


def connect(address: str, authority: Authority, client: Pair | None = None) -> grpc.Channel:
    """A connection of its own, made anew, that trusts one authority."""
    shown = (client.key, client.certificate) if client is not None else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate, *shown)
    return grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def code_of(address: str, authority: Authority, client: Pair | None = None) -> grpc.StatusCode:
    """What a call over a new connection comes to."""
    with connect(address, authority, client) as channel:
        return ask(channel)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


# Who is let in.


def test_tls_lets_in_who_trusts_the_certificate_and_no_plaintext(files: Files, authority: Authority) -> None:
    files.put(authority.issue())
    with serving(files.tls().credentials()) as (address,):
        assert code_of(address, authority) == OK
        assert code_of(address, Authority()) == UNAVAILABLE
        with grpc.insecure_channel(address) as channel:
            assert ask(channel) == UNAVAILABLE


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: rsa.generate_private_key(65_537, 2048), id="RSA 2048"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), id="P-384"),
    ],
)
def test_the_keys_that_the_errors_advise_work_with_grpc(files: Files, authority: Authority, key) -> None:
    files.put(authority.issue(key=key()))
    with serving(files.tls().credentials()) as (address,):
        assert code_of(address, authority) == OK


def test_mutual_tls_lets_in_clients_of_the_authority_only(files: Files, authority: Authority) -> None:
    files.put(authority.issue())
    clients = Authority("clients")
    write_settled(files.client_ca, clients.certificate)
    with serving(files.tls(mutual=True).credentials()) as (address,):
        assert code_of(address, authority, clients.issue_client()) == OK
        assert code_of(address, authority) == UNAVAILABLE
        assert code_of(address, authority, authority.issue_client()) == UNAVAILABLE
        assert code_of(address, authority, clients.issue_client()) == OK


# Rotation.


def test_certificates_change_while_running_and_connections_that_stand_go_on(
    files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files.put(authority.issue())
    other = Authority()
    with (
        serving(files.tls().credentials(files.clock)) as (address,),
        connect(address, authority) as standing,
    ):
        assert ask(standing) == OK
        files.put(other.issue())
        assert code_of(address, authority) == OK  # no look yet
        files.pass_time()
        assert (code_of(address, other), code_of(address, authority)) == (OK, UNAVAILABLE)
        assert ask(standing) == OK
        files.put(authority.issue())
        files.pass_time()
        assert (code_of(address, other), code_of(address, authority)) == (UNAVAILABLE, OK)
        assert ask(standing) == OK
    assert [str(files.certificate) in each for each in messages(caplog, logging.INFO)] == [True, True]


def test_the_authorities_of_clients_change_while_running(files: Files, authority: Authority) -> None:
    files.put(authority.issue())
    old, new = Authority("clients"), Authority("clients, later")
    found = []
    write_settled(files.client_ca, old.certificate)
    with serving(files.tls(mutual=True).credentials(files.clock)) as (address,):
        for trusted in (old.certificate, old.certificate + new.certificate, new.certificate):
            write_settled(files.client_ca, trusted)
            files.pass_time()
            found.append([code_of(address, authority, each.issue_client()) for each in (old, new)])
    assert found == [[OK, UNAVAILABLE], [OK, OK], [UNAVAILABLE, OK]]


def test_two_ports_with_credentials_of_their_own_both_change(files: Files, authority: Authority) -> None:
    files.put(authority.issue())
    other = Authority()
    tls = files.tls()
    with serving(tls.credentials(files.clock), tls.credentials(files.clock)) as addresses:
        files.put(other.issue())
        files.pass_time()
        assert [code_of(each, other) for each in addresses] == [OK, OK]


@pytest.mark.parametrize(
    "way", ["other key", "half a certificate", "half a key", "expired", "no key", "not a client ca"]
)
def test_files_that_do_not_hold_up_leave_the_old_ones_and_are_logged_once_for_each_change(
    files: Files, authority: Authority, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    pair, other = authority.issue(), Authority()
    files.put(pair)
    write_settled(files.client_ca, authority.certificate)
    client = authority.issue_client()
    with serving(files.tls(mutual=True).credentials(files.clock)) as (address,):
        match way:
            case "other key":
                write_settled(files.key, authority.issue().key)
            case "half a certificate":
                write_settled(files.certificate, authority.issue().certificate[:400])
            case "half a key":
                write_settled(files.key, pair.key[:100])
            case "expired":
                files.put(authority.issue(starts=-3, ends=-1))
            case "no key":
                files.key.unlink()
            case "not a client ca":
                write_settled(files.client_ca, authority.issue_client().certificate)
        for _ in range(3):
            files.pass_time()
            assert code_of(address, authority, client) == OK
        assert [each.endswith("stay in use until that is mended") for each in messages(caplog, logging.ERROR)] == [True]
        files.put(other.issue())
        write_settled(files.client_ca, authority.certificate)
        files.pass_time()
        assert code_of(address, other, client) == OK
        assert len(messages(caplog, logging.ERROR)) == 1
    bodies = [line for each in (pair.key, pair.certificate) for line in each.decode().splitlines()[1:-1]]
    assert bodies
    assert not any(line in caplog.text for line in bodies)


# Files that are refused at the start.


def refusal(files: Files, *, mutual: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        files.tls(mutual=mutual).credentials()
    return str(caught.value)


def test_a_missing_file_is_refused_with_its_flag(files: Files, authority: Authority) -> None:
    assert f"--tls-certificate {files.certificate} cannot be read: No such file" in refusal(files)
    files.put(authority.issue())
    assert f"--tls-client-ca {files.client_ca} cannot be read: No such file" in refusal(files, mutual=True)
    files.key.unlink()
    assert f"--tls-key {files.key} cannot be read: No such file" in refusal(files)


def test_a_key_of_another_certificate_is_refused(files: Files, authority: Authority) -> None:
    files.put(Pair(authority.issue().certificate, authority.issue().key))
    assert f"--tls-key {files.key} does not belong to --tls-certificate {files.certificate}" in refusal(files)


def test_a_chain_in_the_wrong_order_is_refused(files: Files, authority: Authority) -> None:
    pair = authority.issue()
    files.put(Pair(authority.certificate + pair.certificate, pair.key))
    assert "first certificate of that file" in refusal(files)
    files.put(Pair(pair.certificate + authority.certificate, pair.key))
    with serving(files.tls().credentials()) as (address,):
        assert code_of(address, authority) == OK


def test_a_key_with_a_password_is_refused_without_asking_for_it(files: Files, authority: Authority) -> None:
    files.put(authority.issue(password=b"a secret"))
    assert "is encrypted; expected a key without a password" in refusal(files)


def test_certificates_that_do_not_hold_now_are_refused_with_the_date(files: Files, authority: Authority) -> None:
    files.put(authority.issue(starts=-3, ends=-1))
    assert "expired at " in refusal(files)
    files.put(authority.issue(starts=2, ends=3))
    assert "clock right?" in refusal(files)


def test_a_certificate_that_ends_soon_is_warned_of(
    files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files.put(authority.issue(ends=8))
    files.tls().credentials()
    assert messages(caplog, logging.WARNING) == []
    files.put(authority.issue(ends=6))
    files.tls().credentials()
    (warning,) = messages(caplog, logging.WARNING)
    assert f"--tls-certificate {files.certificate} expires at " in warning


def test_a_certificate_that_is_not_for_servers_is_refused(files: Files, authority: Authority) -> None:
    files.put(authority.issue_client())
    assert "would be refused by clients: unsuitable certificate purpose" in refusal(files)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65_537, 1024), ec.generate_private_key(ec.SECP256K1())])
def test_a_key_that_tls_refuses_is_refused_with_those_that_work(files: Files, authority: Authority, key) -> None:
    files.put(authority.issue(key=key))
    assert "RSA key of 2048 bits or more, or one on the curve P-256 or P-384" in refusal(files)


@pytest.mark.parametrize("content", [b"", b"no PEM", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_that_is_no_pem_is_refused_by_name(files: Files, authority: Authority, content: bytes) -> None:
    pair = authority.issue()
    files.put(Pair(content, pair.key))
    assert f"--tls-certificate {files.certificate} holds no sound certificate" in refusal(files)
    files.put(Pair(pair.certificate, content))
    assert f"--tls-key {files.key} holds no sound private key" in refusal(files)
    files.put(pair)
    write_settled(files.client_ca, content)
    assert f"--tls-client-ca {files.client_ca} holds no sound certificate" in refusal(files, mutual=True)


def test_authorities_of_clients_must_be_authorities_and_one_of_them_hold(files: Files, authority: Authority) -> None:
    files.put(authority.issue())
    write_settled(files.client_ca, authority.issue_client().certificate)
    assert "none of an authority" in refusal(files, mutual=True)
    over, later = Authority(ends=-1), Authority(starts=1, ends=60)
    write_settled(files.client_ca, over.certificate)
    assert f"--tls-client-ca {files.client_ca} expired at " in refusal(files, mutual=True)
    write_settled(files.client_ca, later.certificate)
    assert "clock right?" in refusal(files, mutual=True)
    write_settled(files.client_ca, over.certificate + later.certificate + authority.certificate)
    files.tls(mutual=True).credentials()


def test_a_key_that_everybody_may_read_is_warned_of(
    files: Files, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files.put(authority.issue())
    files.key.chmod(0o644)
    files.tls().credentials()
    (warning,) = messages(caplog, logging.WARNING)
    assert warning.startswith(f"--tls-key {files.key} holds secrets")


# The flags together.


def test_flags_that_belong_together_make_one_value() -> None:
    a, b, c = Path("a"), Path("b"), Path("c")
    assert ServerTls.of(None, None, None) is None
    assert ServerTls.of(a, b, None) == ServerTls(a, b)
    assert ServerTls.of(a, b, c) == ServerTls(a, b, c)


@pytest.mark.parametrize(
    ("flags", "found", "missing"),
    [
        ((Path("a"), None, None), "--tls-certificate", "--tls-key"),
        ((None, Path("b"), None), "--tls-key", "--tls-certificate"),
        ((None, None, Path("c")), "--tls-client-ca", "--tls-certificate and --tls-key"),
        ((None, Path("b"), Path("c")), "--tls-key and --tls-client-ca", "--tls-certificate"),
    ],
)
def test_half_of_the_flags_is_refused(flags, found: str, missing: str) -> None:
    with pytest.raises(UsageError, match=f"^{found} given without {missing}; TLS needs both"):
        ServerTls.of(*flags)
