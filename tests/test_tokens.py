"""Tokens: who they are of, what their file may look like, that they change while running, and that they never show."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_certificates import write_settled

import engine.tokens
from engine.errors import Forbidden, Unauthenticated, UsageError
from engine.tokens import MAX_TOKENS, Role, Tokens, header_in

QUERY, ADMIN, OTHER = "query-token-aaaaaaaaaaaaa", "admin-token-bbbbbbbbbbbbb", "other-token-ccccccccccccc"


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def tokens_of(path: Path, content: str, clock: Clock | None = None) -> Tokens:
    write_settled(path, content)
    path.chmod(0o600)
    return Tokens(path, clock or Clock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def test_each_token_has_its_role(path: Path) -> None:
    tokens = tokens_of(path, f"# of the shop\n\n  query\t{QUERY}   # the front end\r\nadmin {ADMIN}\nquery {OTHER}")
    assert tokens.role_of(f"Bearer {QUERY}") is Role.QUERY
    assert tokens.role_of(f"Bearer {OTHER}") is Role.QUERY
    assert tokens.role_of(f"Bearer {ADMIN}") is Role.ADMIN


def test_a_token_may_be_known_by_its_digest_alone(path: Path) -> None:
    tokens = tokens_of(path, f"query sha256:{digest_of(QUERY)}\nadmin sha256:{digest_of(ADMIN).upper()}\n")
    assert tokens.role_of(f"Bearer {QUERY}") is Role.QUERY
    assert tokens.role_of(f"Bearer {ADMIN}") is Role.ADMIN
    assert tokens.role_of(f"Bearer sha256:{digest_of(QUERY)}") is None
    assert tokens.role_of(f"Bearer {digest_of(QUERY)}") is None


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", QUERY, f"Basic {QUERY}", f"Bearer{QUERY}", f"Bearer {QUERY}x",
     f"Bearer {QUERY[:-1]}", f"Bearer {QUERY.upper()}", f"Bearer {QUERY} {ADMIN}", f"Bearer {QUERY}\n",
     "Bearer \udcff", "Bearer ключ"],
)  # fmt: skip
def test_what_is_no_valid_token_has_no_role(path: Path, header: str | None) -> None:
    assert tokens_of(path, f"query {QUERY}\nadmin {ADMIN}").role_of(header) is None


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  "])
def test_the_scheme_is_read_as_http_has_it(path: Path, scheme: str) -> None:
    assert tokens_of(path, f"query {QUERY}").role_of(scheme + QUERY) is Role.QUERY


@given(st.text(max_size=60))
def test_no_other_text_has_a_role(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tokens = tokens_of(tmp_path_factory.getbasetemp() / "tokens of no text", f"query {QUERY}")
    assert tokens.role_of(text) is None
    assert tokens.role_of(f"Bearer {text}") is None


def test_a_query_may_be_asked_by_both_roles_and_administration_by_one(path: Path) -> None:
    tokens = tokens_of(path, f"query {QUERY}\nadmin {ADMIN}")
    tokens.require(f"Bearer {QUERY}", Role.QUERY)
    tokens.require(f"Bearer {ADMIN}", Role.QUERY)
    tokens.require(f"Bearer {ADMIN}", Role.ADMIN)
    with pytest.raises(Forbidden, match=r"role query.*needs the role admin"):
        tokens.require(f"Bearer {QUERY}", Role.ADMIN)
    for header in (None, f"Bearer {OTHER}"):
        for role in Role:
            with pytest.raises(Unauthenticated, match="expected 'authorization': 'Bearer TOKEN'"):
                tokens.require(header, role)


@pytest.mark.parametrize("presented", [QUERY, ADMIN, OTHER, "none of them at all", ""])
def test_every_digest_is_compared_whatever_was_presented(
    path: Path, monkeypatch: pytest.MonkeyPatch, presented: str
) -> None:
    """And nothing else: what a caller can time depends on the number of tokens alone."""
    tokens = tokens_of(path, f"query {QUERY}\nadmin {ADMIN}\nquery sha256:{digest_of(OTHER)}")
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    assert engine.tokens.compare_digest is hmac.compare_digest
    monkeypatch.setattr(engine.tokens, "compare_digest", compare)
    for _ in range(2):  # a second time, too: nothing remembers the first
        tokens.role_of(f"Bearer {presented}")
    digests = [hashlib.sha256(each.encode()).digest() for each in (QUERY, ADMIN, OTHER)]
    assert compared == [(hashlib.sha256(presented.encode()).digest(), each) for each in digests] * 2


# The file.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no token"),
        ("# nothing\n\n", "holds no token"),
        ("query", "line 1 has 1 words"),
        (f"query {QUERY} {ADMIN}", "line 1 has 3 words"),
        (f"\n# x\n{QUERY}", "line 3 does not begin with a role"),
        (f"{QUERY} query", "line 1 does not begin with a role"),
        (f"Query {QUERY}", "line 1 does not begin with a role"),
        (f"query {QUERY[:15]}", "a token of 15 characters; expected 16 to 1024"),
        (f"query {'a' * 1025}", "a token of 1025 characters"),
        (f"query {QUERY}#", "a character that a header may not carry"),
        (f"query {QUERY}ä", "a character that a header may not carry"),
        (f"query ={QUERY}", "a character that a header may not carry"),
        (f"query sha256:{digest_of(QUERY)[:-1]}", "63 characters after sha256:"),
        (f"query sha256:{digest_of(QUERY)[:-1]}g", "64 characters after sha256:"),
        (f"query {QUERY}\nquery {QUERY}", "line 2 repeats the token of line 1"),
        (f"query {QUERY}\nadmin {QUERY}", "line 2 repeats the token of line 1"),
        (f"admin {QUERY}\n\nquery sha256:{digest_of(QUERY)}", "line 3 repeats the token of line 1"),
        ("".join(f"query {QUERY}{n}\n" for n in range(MAX_TOKENS + 1)), "257 tokens; expected at most 256"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_line_and_without_a_word_of_it(
    path: Path, content: str, message: str
) -> None:
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=f"--tokens {path}.*{message}") as caught:
        Tokens(path)
    assert not any(word in str(caught.value) for word in content.split() if len(word) > 8)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match=f"--tokens {path} cannot be read: No such file"):
        Tokens(path)


def test_the_shortest_and_the_longest_token_are_taken_and_so_is_a_full_file(path: Path) -> None:
    shortest, longest = "a" * 16, "b" * 1024
    many = "".join(f"query {QUERY}{n}\n" for n in range(MAX_TOKENS - 2))
    tokens = tokens_of(path, f"\ufeffquery {shortest}\nadmin {longest}\n{many}")
    assert tokens.role_of(f"Bearer {shortest}") is Role.QUERY
    assert tokens.role_of(f"Bearer {longest}") is Role.ADMIN


@pytest.mark.parametrize(("line", "warns"), [(f"query {QUERY}", True), (f"query sha256:{digest_of(QUERY)}", False)])
def test_a_file_that_everybody_may_read_is_warned_of_where_it_holds_secrets(
    path: Path, caplog: pytest.LogCaptureFixture, line: str, warns: bool
) -> None:
    write_settled(path, line)
    path.chmod(0o644)
    Tokens(path)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["every user of this machine" in each for each in warnings] == [True] * warns


# Rotation.


def test_tokens_are_rotated_while_running_with_old_and_new_valid_between(path: Path) -> None:
    clock = Clock()
    tokens = tokens_of(path, f"query {QUERY}", clock)
    roles = []
    for content in (f"query {QUERY}\nquery {OTHER}", f"query {OTHER}"):
        write_settled(path, content)
        roles.append([tokens.role_of(f"Bearer {each}") for each in (QUERY, OTHER)])
        clock.seconds += 1
        roles.append([tokens.role_of(f"Bearer {each}") for each in (QUERY, OTHER)])
    old, both, new = [Role.QUERY, None], [Role.QUERY, Role.QUERY], [None, Role.QUERY]
    assert roles == [old, both, both, new]


@pytest.mark.parametrize("content", ["", "qu", f"query {QUERY[:9]}", None])
def test_a_file_that_breaks_leaves_the_tokens_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    clock = Clock()
    tokens = tokens_of(path, f"query {QUERY}", clock)
    if content is None:
        path.unlink()
    else:
        write_settled(path, content)
    for _ in range(3):
        clock.seconds += 1
        assert tokens.role_of(f"Bearer {QUERY}") is Role.QUERY
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [f"--tokens {path}" in each and "former tokens stay in use" in each for each in messages] == [True]


def test_no_token_shows_in_the_log_in_a_repr_in_an_error_or_in_the_object(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    clock = Clock()
    tokens = tokens_of(path, f"query {QUERY}\nadmin {ADMIN}", clock)
    path.chmod(0o644)
    shown = [repr(tokens), str(tokens), repr(vars(tokens)), repr(vars(tokens._watched))]
    for content in (f"query {OTHER}", OTHER, f"query {OTHER} {OTHER}", f"query {OTHER}\nadmin {OTHER}", f"a {OTHER}ö"):
        write_settled(path, content)
        clock.seconds += 1
        for presented in (QUERY, ADMIN, OTHER):
            tokens.role_of(f"Bearer {presented}")
            for role in Role:
                try:
                    tokens.require(f"Bearer {presented}", role)
                except (Unauthenticated, Forbidden) as error:
                    shown.append(str(error))
        shown.append(repr(vars(tokens._watched)))
    shown += [record.getMessage() for record in caplog.records]
    assert sum("stay in use" in each for each in shown) == 4
    for secret in (QUERY, ADMIN, OTHER):
        assert not any(secret in each for each in shown)


def test_the_log_counts_the_tokens_of_each_role(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tokens_of(path, f"query {QUERY}\nadmin {ADMIN}\nquery {OTHER}")
    assert f"tokens read from {path}: 2 of the role query, 1 of the role admin" in caplog.text


# On the wire.


def test_the_header_is_the_only_one_of_its_name() -> None:
    assert header_in(()) is None
    assert header_in((("user-agent", "x"), ("authorization", "Bearer a"), ("z", "b"))) == "Bearer a"
    assert header_in((("authorization-bin", b"Bearer a"),)) is None
    assert header_in((("authorization", "Bearer a"), ("authorization", "Bearer b"))) is None
    assert header_in((("authorization", b"Bearer a"),)) is None


@contextmanager
def guarded(tokens: Tokens) -> Iterator[str]:
    """A server with a method for each role; its address."""

    def handle(role: Role) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                tokens.require(header_in(context.invocation_metadata()), role)
            except Unauthenticated as error:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            except Forbidden as error:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            return request

        return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {role.name.lower(): handle(role) for role in Role}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("guarded", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def test_a_real_server_tells_missing_wrong_and_insufficient_tokens_apart(path: Path) -> None:
    clock = Clock()
    tokens = tokens_of(path, f"query {QUERY}\nadmin {ADMIN}", clock)
    with guarded(tokens) as address, grpc.insecure_channel(address) as channel:

        def ask(method: str, *sent: str) -> grpc.StatusCode:
            call = channel.unary_unary(f"/guarded/{method}")
            asked = call.future(b"question", metadata=[("authorization", each) for each in sent], timeout=10)
            assert not any(token in asked.details() for token in (QUERY, ADMIN, OTHER))
            return asked.code()

        ok, unknown = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
        assert [ask("query", *sent) for sent in ((f"Bearer {QUERY}",), (f"bearer {ADMIN}",))] == [ok, ok]
        assert ask("admin", f"Bearer {ADMIN}") == ok
        assert ask("admin", f"Bearer {QUERY}") == grpc.StatusCode.PERMISSION_DENIED
        assert [ask(method) for method in ("query", "admin")] == [unknown, unknown]
        assert ask("admin", f"Bearer {OTHER}") == unknown
        assert ask("query", f"Bearer {QUERY}", f"Bearer {ADMIN}") == unknown
        write_settled(path, f"query {OTHER}")
        clock.seconds += 1
        assert [ask("query", f"Bearer {each}") for each in (QUERY, OTHER)] == [unknown, ok]
