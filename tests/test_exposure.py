"""What may listen where: loopback, and what else needs TLS, tokens or a flag."""

from __future__ import annotations

import logging
import socket

import pytest

from engine.errors import ServerError, UsageError
from engine.exposure import Exposure, is_loopback

LOCAL, OPEN = "127.0.0.1:50051", "0.0.0.0:50051"


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:0", "127.0.0.1:50051", "127.8.9.10:1", "localhost:50051", "LOCALHOST:1", "[::1]:0", "::1:5",
     "[::ffff:127.0.0.1]:1", "127.1:7", "unix:/run/nearcart.sock", "unix:///run/nearcart.sock", "unix-abstract:x"],
)  # fmt: skip
def test_addresses_that_only_this_machine_reaches(address: str) -> None:
    assert is_loopback(address, "--address")


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:50051", "0:1", "[::]:50051", "128.0.0.1:1", "10.0.0.1:1", "192.168.1.5:50051", "[::ffff:10.0.0.1]:1",
     "[::ffff:0.0.0.0]:1", "[fe80::1]:1", "126.255.255.255:1"],
)  # fmt: skip
def test_addresses_that_other_machines_reach(address: str) -> None:
    assert not is_loopback(address, "--address")


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.1", "::1"], True),
        (["127.0.0.1", "10.0.0.7"], False),
        (["10.0.0.7"], False),
        (["fe80::1%eth0"], False),
    ],
)
def test_a_name_is_loopback_where_all_it_stands_for_is(
    monkeypatch: pytest.MonkeyPatch, numbers: list[str], expected: bool
) -> None:
    asked = []

    def look_up(host: str, port: int, type: int) -> list[tuple]:
        asked.append((host, port))
        return [(socket.AF_INET, type, 6, "", (each, port)) for each in numbers]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert is_loopback("127.shop.example:50051", "--address") == expected
    assert asked == [("127.shop.example", 50051)]


def test_what_is_no_address_or_no_host_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--admin-address is 'localhost'; expected HOST:PORT"):
        is_loopback("localhost", "--admin-address")
    with pytest.raises(UsageError, match=r"'a\.\.b' cannot be the name of a host"):
        is_loopback("a..b:1", "--address")
    with pytest.raises(ServerError, match=r"cannot listen on no\.host\.invalid:1.*--address"):
        is_loopback("no.host.invalid:1", "--address")


def test_on_loopback_nothing_is_needed_and_nothing_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    Exposure(LOCAL, "[::1]:50052", "localhost:9464").check()
    Exposure("unix:/run/nearcart.sock").check()
    assert records(caplog) == []


@pytest.mark.parametrize("has_tokens", [False, True])
def test_plaintext_that_other_machines_reach_needs_the_flag(has_tokens: bool) -> None:
    with pytest.raises(UsageError, match=r"--address is 0\.0\.0\.0:50051.*--tls-certificate.*--allow-plaintext"):
        Exposure(OPEN, has_tokens=has_tokens).check()


@pytest.mark.parametrize(("has_tokens", "risk"), [(False, "whoever reaches it may ask"), (True, "takes the tokens")])
def test_plaintext_that_was_allowed_is_warned_of(caplog: pytest.LogCaptureFixture, has_tokens: bool, risk: str) -> None:
    Exposure(OPEN, "127.0.0.1:50052", has_tokens=has_tokens, allow_plaintext=True).check()
    ((level, message),) = records(caplog)
    assert level == logging.WARNING
    assert message.startswith(f"plaintext at {OPEN}")
    assert risk in message


def test_with_tls_an_address_that_other_machines_reach_needs_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    Exposure(OPEN, has_tls=True).check()
    assert records(caplog) == []


@pytest.mark.parametrize("allow_plaintext", [False, True])
@pytest.mark.parametrize(
    ("has_tls", "has_tokens", "missing"),
    [
        (False, False, "without --tls-certificate and --tls-key and --tokens;"),
        (True, False, "without --tokens;"),
        (False, True, "without --tls-certificate and --tls-key;"),
    ],
)
def test_administration_from_other_machines_needs_tls_and_tokens_and_no_flag_changes_it(
    allow_plaintext: bool, has_tls: bool, has_tokens: bool, missing: str
) -> None:
    exposure = Exposure(LOCAL, "[::]:50052", has_tls=has_tls, has_tokens=has_tokens, allow_plaintext=allow_plaintext)
    with pytest.raises(UsageError, match=r"--admin-address is \[::\]:50052") as caught:
        exposure.check()
    assert missing in str(caught.value)


def test_administration_from_other_machines_with_tls_and_tokens_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    Exposure(OPEN, "0.0.0.0:50052", has_tls=True, has_tokens=True).check()
    assert records(caplog) == []


def test_metrics_may_be_read_from_other_machines_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Exposure(LOCAL, metrics_address="0.0.0.0:9464").check()
    ((level, message),) = records(caplog)
    assert level == logging.INFO
    assert "metrics at 0.0.0.0:9464" in message
