"""TLS and tokens of a client: what is sent, to whom it is not sent, and where a token never shows."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import grpc
import pytest
from made_certificates import Authority
from plain_server import answering, one_item

from engine.cli import main
from engine.client import AsyncClient, Client, ClientTls
from engine.credentials import TokenFile, stays_here
from engine.errors import ClientError

SECRET = "s3cret-of-the-shop.0123456789"


class Headers:
    """Answers users, and keeps the authorization of each call."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def __call__(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.found.append(dict(context.invocation_metadata()).get("authorization"))
        return one_item(request)


@pytest.fixture
def headers() -> Headers:
    return Headers()


class Files:
    """PEM files of an authority, a server of localhost and a client."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.roots = folder / "roots.pem"
        self.roots.write_bytes(self.authority.certificate)
        client = self.authority.issue_client()
        self.certificate, self.key = folder / "client.pem", folder / "client.key"
        self.certificate.write_bytes(client.certificate)
        self.key.write_bytes(client.key)
        self.server = self.authority.issue()

    def server_credentials(self, *, mutual: bool = False) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(self.server.key, self.server.certificate)],
            root_certificates=self.authority.certificate if mutual else None,
            require_client_auth=mutual,
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


async def ask(address: str, **options: Any) -> Any:
    async with AsyncClient(address, **options) as client:
        return await client.recommend_for_user("a")


def test_a_client_talks_tls_with_a_server_that_it_trusts(files: Files, headers: Headers) -> None:
    tls = ClientTls(files.roots)
    with answering(headers, files.server_credentials()) as address:
        with Client(address, tls=tls, token=SECRET) as client:
            assert client.recommend_for_user("a").item_ids == ("a",)
        assert asyncio.run(ask(address, tls=tls, token=SECRET)).item_ids == ("a",)
    assert headers.found == [f"Bearer {SECRET}"] * 2


def test_a_server_that_is_not_trusted_gets_nothing(files: Files, headers: Headers, tmp_path: Path) -> None:
    (tmp_path / "others.pem").write_bytes(Authority("another authority").certificate)
    with (
        answering(headers, files.server_credentials()) as address,
        Client(address, tls=ClientTls(tmp_path / "others.pem"), token=SECRET) as client,
        pytest.raises(ClientError, match=r"no answer from .*so must the client \(--tls-ca") as caught,
    ):
        client.recommend_for_user("a")
    assert headers.found == []
    assert SECRET not in str(caught.value)


def test_mutual_tls_shows_the_clients_certificate(files: Files, headers: Headers) -> None:
    with answering(headers, files.server_credentials(mutual=True)) as address:
        with Client(address, tls=ClientTls(files.roots, files.certificate, files.key)) as client:
            assert client.recommend_for_user("a").item_ids == ("a",)
        with Client(address, tls=ClientTls(files.roots)) as client, pytest.raises(ClientError, match="no answer from"):
            client.recommend_for_user("a")
    assert headers.found == [None]


def test_plaintext_to_a_server_that_talks_tls_says_what_may_be_wrong(files: Files, headers: Headers) -> None:
    with (
        answering(headers, files.server_credentials()) as address,
        Client(address) as client,
        pytest.raises(ClientError, match="where it talks TLS"),
    ):
        client.recommend_for_user("a")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("absent", None, None), "certificates to trust cannot be read from .*absent: No such file"),
        (("empty", None, None), "certificates to trust in .*empty are not PEM"),
        ((None, "empty", None), "found a client's certificate without its key"),
        ((None, None, "empty"), "found a client's key without its certificate"),
        ((None, "empty", "absent"), "the client's certificate in .*empty are not PEM"),
    ],
)
def test_files_of_certificates_that_make_no_sense_are_named(
    names: tuple[str | None, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ClientError, match=message):
        Client("localhost:1", tls=ClientTls(*(name and tmp_path / name for name in names)))  # type: ignore[arg-type]


def test_the_query_command_talks_tls_and_sends_the_token_of_a_file(
    files: Files, headers: Headers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(SECRET + "\n")
    guarded = ["--tls-ca", str(files.roots), "--tls-certificate", str(files.certificate), "--tls-key", str(files.key)]
    with answering(headers, files.server_credentials(mutual=True)) as address:
        command = ["query", "user", "a", "--address", address, *guarded, "--token-file", str(tmp_path / "token")]
        assert main(command) == 0
        assert main([*command, "--tls-ca", "default"]) == 1  # what everybody trusts does not know this authority
    assert headers.found == [f"Bearer {SECRET}"]
    shown = capsys.readouterr()
    assert "1 items" in shown.out
    assert "so must the client (--tls-ca" in shown.err
    assert SECRET not in shown.out + shown.err


def test_the_query_command_sends_a_token_in_plaintext_to_another_machine_only_if_told(
    headers: Headers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "token").write_text(SECRET)
    command = ["query", "user", "a", "--address", "198.51.100.7:1", "--token-file", str(tmp_path / "token")]
    assert main(command) == 1
    assert "--allow-plaintext" in capsys.readouterr().err
    assert main([*command, "--allow-plaintext", "--timeout-seconds", "0.01"]) == 1
    assert "--allow-plaintext" not in capsys.readouterr().err


@pytest.mark.parametrize("token", ["", "two words", "line\n", "Käse", "\x00", 7])
def test_what_is_no_token_is_refused_without_showing_it(token: Any) -> None:
    for given in (token, lambda: token):
        with (
            pytest.raises(ClientError, match="the token: found") as caught,
            Client("localhost:1", token=given) as client,
        ):
            client.release()
        assert not isinstance(token, str) or len(token) < 2 or token not in str(caught.value)


def test_a_token_and_a_file_of_one_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="found a token and a token file; expected one of the two"):
        Client("localhost:1", token=SECRET, token_file=tmp_path / "token")


def test_a_token_may_come_anew_for_each_call(headers: Headers) -> None:
    tokens = iter(["first", "second"])
    with answering(headers) as address, Client(address, token=lambda: next(tokens)) as client:
        client.recommend_for_user("a")
        client.recommend_for_user("a")
    assert headers.found == ["Bearer first", "Bearer second"]


def replace(path: Path, text: str) -> None:
    """As rotation does it: a new file under the old name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def test_a_token_file_is_read_again_when_it_changes(headers: Headers, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    with answering(headers) as address, Client(address, token_file=path) as client:
        client.recommend_for_user("a")
        replace(path, "other\n")
        client.recommend_for_user("a")
        path.unlink()
        client.recommend_for_user("a")
        replace(path, "third")
        client.recommend_for_user("a")
        replace(path, "")
        with pytest.raises(ClientError, match=r"the token file .*token: found nothing; expected one word"):
            client.recommend_for_user("a")
    assert headers.found == ["Bearer first", "Bearer other", "Bearer other", "Bearer third"]


def test_a_token_file_that_is_written_in_place_is_read_again_too(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    token = TokenFile(path)
    path.write_text("other")
    os.utime(path, ns=(1, 1))
    assert token() == "other"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"", "found nothing"), (b"\xff", "it is no UTF-8")]
)
def test_a_token_file_without_a_token_is_refused_at_once(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(ClientError, match=message):
        Client("localhost:1", token_file=tmp_path / "token")


HERE = [
    "127.0.0.1:50051",
    "127.8.9.1:1",
    "localhost:50051",
    "LOCALHOST",
    "localhost",
    "[::1]:50051",
    "::1",
    "unix:/run/shop",
    "unix-abstract:shop",
    "dns:localhost:5",
    "dns:///localhost:5",
    "dns://192.0.2.1/localhost:5",
    "ipv4:127.0.0.1:1,127.0.0.2:1",
    "ipv6:[::1]:4",
]
ELSEWHERE = [
    "198.51.100.7:50051",
    "shop.example:50051",
    "127.0.0.1.shop.example:5",
    "127.shop.example",
    "localhost.shop.example:1",
    "0.0.0.0:1",
    "[::]:50051",
    "[2001:db8::1]:5",
    "dns:///shop.example:1",
    "dns://127.0.0.1/shop.example:1",
    "ipv4:127.0.0.1:1,198.51.100.7:1",
    "xds:///shop",
]


@pytest.mark.parametrize("address", HERE)
def test_a_token_is_sent_in_plaintext_on_this_machine(address: str) -> None:
    assert stays_here(address)
    Client(address, token=SECRET).close()


@pytest.mark.parametrize("address", ELSEWHERE)
def test_a_token_is_not_sent_in_plaintext_to_another_machine(address: str, files: Files) -> None:
    assert not stays_here(address)
    for kind in (Client, AsyncClient):
        with pytest.raises(ClientError, match=r"a token would go to .* without TLS") as caught:
            kind(address, token=SECRET)
        assert SECRET not in str(caught.value)
    Client(address).close()
    Client(address, token=SECRET, allow_plaintext=True).close()
    Client(address, token=SECRET, tls=ClientTls(files.roots)).close()


def test_calls_to_this_machine_go_through_no_proxy(headers: Headers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(headers) as address, Client(address, token=SECRET) as client:
        client.recommend_for_user("a")
    assert headers.found == [f"Bearer {SECRET}"]


def test_a_token_shows_in_no_repr_no_log_and_no_error(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)

    def refuse(name: str, request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid token")

    shown = []
    with answering(refuse) as address, caplog.at_level(logging.DEBUG):
        for options in ({"token": SECRET}, {"token_file": tmp_path / "token"}):
            with Client(address, **options) as client:  # type: ignore[arg-type]
                with pytest.raises(ClientError) as caught:
                    client.release()
                shown += [repr(client), repr(vars(client)), str(caught.value), repr(caught.value.__cause__)]
    assert SECRET not in "".join([*shown, caplog.text])
    assert "Give the client a token that stands in the server's --tokens file" in str(caught.value)
