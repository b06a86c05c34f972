"""The engine's commands. Each class is one command: its fields are the options, `run` does it.

This module stays light: whatever is heavy is imported inside `run`, so that `nearcart --help` answers at once and a
client does not load FAISS.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.configuration import option
from engine.errors import ReleaseCorrupt, ReleaseNotFound, UsageError
from engine.gate import MAX_LOSS, MAX_METRIC_LOSS, Gate
from engine.vector_formats import FORMATS

if TYPE_CHECKING:
    from engine.client import Client, ClientTls, Recommendations
    from engine.repository import Repository

_log = logging.getLogger("nearcart")

_SHOWN_SHARES = 3
"""Items of a cart or history that are named beside each answer."""
RELEASES_HELP = "directory of releases"
DEFAULT_ADDRESS = "127.0.0.1:50051"
_DEFAULT_ROOTS = "default"
"""As --tls-ca: no file, but those that gRPC brings."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Ask a running server: for a user, for a cart, or for items similar to one."""

    kind: str = option("what to ask for", positional=True, choices=("user", "cart", "similar"))
    ids: tuple[str, ...] = option("user id, cart's item ids, or item id", positional=True, metavar="ID")
    limit: int = option("items to ask for", 20, metavar="K")
    user: str | None = option("with cart: whose cart it is", None, metavar="ID")
    recent: tuple[str, ...] = option("with user: items seen since training", (), metavar="ID")
    exclude: tuple[str, ...] = option("items that must not come back", (), metavar="ID")
    allowed: tuple[str, ...] = option("the only items that may come back", (), metavar="ID")
    filter: str | None = option(
        'what items must be like: {"any_of": {"attribute": "category", "values": ["cups"]}}', None, metavar="JSON"
    )
    repeat: str | None = option(
        "items the user already has: default never for users, mix for carts", None, choices=("never", "mix", "only")
    )
    without: tuple[str, ...] = option("parts of the recommender that are not to count, by name", (), metavar="PART")
    shares: bool = option("show what each item of the cart or history gives to each score", False)
    strict: bool = option("fail for unknown users and items instead of answering with popular items", False)
    address: str = option("the server", DEFAULT_ADDRESS, metavar="HOST:PORT")
    timeout_seconds: float = option("longest wait for the answer", 10.0, metavar="S", minimum=0.001)
    tls_ca: str | None = option(
        "talk TLS, and trust the certificates of this PEM file; 'default' trusts those that gRPC brings",
        None,
        metavar="FILE",
    )
    tls_certificate: Path | None = option(
        "talk TLS, and show the server this certificate, with --tls-key", None, metavar="FILE"
    )
    tls_key: Path | None = option("the key of --tls-certificate", None, metavar="FILE")
    token_file: Path | None = option("send the bearer token in this file", None, metavar="FILE")
    allow_plaintext: bool = option("send the token to other machines without TLS too", False)
    json: bool = option("print JSON instead of a table", False)

    def run(self) -> None:
        """Print the answer. Raises ClientError."""
        if self.kind != "cart" and len(self.ids) != 1:
            raise UsageError(f"query {self.kind} takes one id, found {len(self.ids)}: {' '.join(self.ids)}")
        elsewhere = {
            "--user": self.kind != "cart" and self.user is not None,
            "--recent": self.kind != "user" and self.recent != (),
            "--repeat": self.kind == "similar" and self.repeat is not None,
            "--strict": self.kind == "similar" and self.strict,
        }
        for flag in (flag for flag, misplaced in elsewhere.items() if misplaced):
            raise UsageError(f"{flag} means nothing with `query {self.kind}`: leave it away")
        from engine.client import Client

        with Client(
            self.address,
            timeout_seconds=self.timeout_seconds,
            connections=1,
            tls=self._tls(),
            token_file=self.token_file,
            allow_plaintext=self.allow_plaintext,
        ) as client:
            answer = self._ask(client)
        print(json.dumps(as_json(answer), indent=1) if self.json else as_table(answer))

    def _tls(self) -> ClientTls | None:
        from engine.client import ClientTls

        if self.tls_ca is None and self.tls_certificate is None and self.tls_key is None:
            return None
        roots = None if self.tls_ca in (None, _DEFAULT_ROOTS) else Path(self.tls_ca)
        return ClientTls(roots, self.tls_certificate, self.tls_key)

    def _ask(self, client: Client) -> Recommendations:
        from engine.filter_messages import from_json
        from engine.queries import Repeat

        common: dict[str, Any] = {
            "limit": self.limit,
            "exclude_item_ids": self.exclude,
            "allowed_item_ids": self.allowed,
            "filter": None if self.filter is None else from_json(self.filter),
            "titles": True,
            "without_parts": self.without,
            "shares": self.shares,
        }
        if self.kind == "similar":
            return client.similar_items(self.ids[0], **common)
        common |= {"repeat": None if self.repeat is None else Repeat(self.repeat), "strict": self.strict}
        if self.kind == "user":
            return client.recommend_for_user(self.ids[0], recent_item_ids=self.recent, **common)
        return client.recommend_for_cart(self.ids, user_id=self.user, **common)


def as_json(answer: Recommendations) -> dict[str, Any]:
    """An answer as plain values."""
    return {**vars(answer), "source": answer.source.value}


def as_table(answer: Recommendations) -> str:
    """An answer for people: place, score, id and title, and what was unknown."""
    width = max((len(item_id) for item_id in answer.item_ids), default=0)
    titles = answer.titles or ("",) * len(answer.item_ids)
    lines = []
    for place, (item_id, score, title) in enumerate(zip(answer.item_ids, answer.scores, titles, strict=True), start=1):
        lines.append(f"{place:>4}  {score:>10.4f}  {item_id:<{width}}  {title}".rstrip())
        if answer.shares:
            lines.append(f"{'':>4}  {'':>10}  {_strongest(answer.share_item_ids, answer.shares[place - 1])}")
    lines.append(f"{len(answer.item_ids)} items, source {answer.source.value}, release {answer.release_id}")
    if answer.unknown_item_ids:
        lines.append(f"unknown items: {', '.join(answer.unknown_item_ids)}")
    return "\n".join(lines)


def _strongest(item_ids: Sequence[str], shares: Sequence[float]) -> str:
    """What gives most to a score, and the rest as one."""
    pairs = sorted(zip(item_ids, shares, strict=True), key=lambda pair: -pair[1])
    told = [f"{item_id} {share:.4f}" for item_id, share in pairs[:_SHOWN_SHARES]]
    rest = pairs[_SHOWN_SHARES:]
    if rest:
        told.append(f"{len(rest)} others {sum(share for _, share in rest):.4f}")
    return "from " + ", ".join(told)


@dataclass(frozen=True, kw_only=True)
class Releases:
    """List releases, verify one, promote one to be live, roll back to the one before, or prune old ones."""

    action: str = option("what to do", positional=True, choices=("list", "verify", "promote", "rollback", "prune"))
    release_id: str | None = option(
        "the release to verify or promote; verify without one checks the live release",
        None,
        positional=True,
        metavar="ID",
    )
    releases: Path = option(RELEASES_HELP, metavar="DIR")
    json: bool = option("with list: print JSON instead of a table", False)
    keep: int | None = option("with prune: newest releases to keep", None, metavar="N", minimum=1)
    dry_run: bool = option("with prune: only say what would be deleted", False)
    force: bool = option(
        "with promote: whatever it lost against the live release; with prune: delete also where the file system cannot "
        "tell what is in use",
        False,
    )
    max_loss: float = option(
        "with promote: share of the live release's users, items and events that the release may have less of",
        MAX_LOSS,
        metavar="SHARE",
        minimum=0,
        maximum=1,
    )
    max_metric_loss: float = option(
        "with promote: share by which what was measured on held-out events, or the index's recall, may be lower",
        MAX_METRIC_LOSS,
        metavar="SHARE",
        minimum=0,
        maximum=1,
    )

    def run(self) -> None:
        """Print what was done. Raises ReleaseError."""
        from engine.repository import Repository

        self._require_sense()
        if self.release_id is not None and self.action in ("list", "rollback", "prune"):
            raise UsageError(f"releases {self.action} takes no id, found {self.release_id!r}; `promote` makes one live")
        repository = Repository(self.releases, Gate(self.max_loss, self.max_metric_loss))
        if self.action == "list":
            self._list(repository)
        elif self.action == "verify":
            release_id = self.release_id or repository.current_path().name
            repository.verify(release_id)
            print(f"{release_id} is sound: every file has its SHA-256")
        elif self.action == "promote":
            if self.release_id is None:
                raise UsageError("releases promote needs the id of a release; `nearcart releases list` shows them")
            repository.promote(self.release_id, force=self.force)
            print(f"{self.release_id} is live")
        elif self.action == "prune":
            self._prune(repository)
        else:
            print(f"{repository.rollback()} is live")

    def _require_sense(self) -> None:
        """Raises UsageError for flags of other actions."""
        misplaced = {
            "--keep": self.keep is not None and self.action != "prune",
            "--dry-run": self.dry_run and self.action != "prune",
            "--force": self.force and self.action not in ("promote", "prune"),
            "--json": self.json and self.action != "list",
            "--max-loss": self.max_loss != MAX_LOSS and self.action != "promote",
            "--max-metric-loss": self.max_metric_loss != MAX_METRIC_LOSS and self.action != "promote",
        }
        for flag, is_misplaced in misplaced.items():
            if is_misplaced:
                raise UsageError(f"{flag} means nothing with `releases {self.action}`: leave it away")

    def _prune(self, repository: Repository) -> None:
        from engine.prune import prune

        if self.keep is None:
            raise UsageError("releases prune needs --keep N: the number of newest releases that stay")
        pruned = prune(repository, self.keep, dry_run=self.dry_run, force=self.force)
        would = "would be " if self.dry_run else ""
        for name in pruned.leftovers:
            print(f"{name} is deleted: an earlier prune began it")
        for release_id, reason in pruned.passed_over.items():
            print(f"{release_id} stays: {reason}")
        for release_id, freed in pruned.removed.items():
            print(f"{release_id} {would or 'is '}deleted: {freed:,} bytes")
        total = sum(pruned.removed.values())
        print(f"{len(pruned.removed)} releases {would}deleted, {total:,} bytes {would}free")

    def _list(self, repository: Repository) -> None:
        summaries = repository.summaries()
        if self.json:
            print(json.dumps([vars(each) for each in summaries], indent=1))
            return
        if not summaries:
            raise ReleaseNotFound(f"{self.releases} holds no releases; `nearcart train` publishes one")
        for each in summaries:
            mark = "*" if each.is_current else " "
            state = f"{each.created_at}  {each.size_bytes / 1e6:10,.1f} MB"
            print(f"{mark} {each.release_id}  {state if each.problem is None else 'BROKEN: ' + each.problem}")
        current = repository.current()
        if current is not None and not any(each.is_current for each in summaries):
            raise ReleaseNotFound(f"CURRENT names {current[:128]!r}, which is not there: promote one of these releases")
        if any(each.is_current and each.problem for each in summaries):
            raise ReleaseCorrupt("the live release is broken: `nearcart releases rollback` promotes the one before")


@dataclass(frozen=True, kw_only=True)
class Index:
    """Rebuild the search index of a release, as a new release, with its recall measured.

    The recall is measured against exact search on user vectors and on carts; below the promise nothing is published.
    With --check nothing is built: the recall of the release is measured again, on other queries. With --fold-in items
    that are newer than the training get vectors from the events since, and users what they have done.
    """

    releases: Path = option(RELEASES_HELP, metavar="DIR")
    release: str | None = option("release to rebuild; the live one if not given", None, metavar="ID")
    recall: float = option("recall@20 promised, from 0 to 1", 0.99, metavar="R", minimum=0, maximum=1)
    factory: str = option(
        "index: auto takes the fastest that keeps --recall, Pruned is exact, or another (Quantized1, HNSW32)",
        "auto",
        metavar="STRING",
    )
    search_parameters: str = option("of a given index, such as 'efSearch=256' or 'nprobe=64'", "", metavar="STRING")
    seconds: float = option(
        "seconds that auto may take, about, to build indexes that it compares", 20.0, metavar="S", minimum=0
    )
    vectors: str | None = option(
        "what the new release carries vectors in: no finer than what the release has, which is the default",
        None,
        choices=FORMATS,
    )
    promote: bool = option("make the new release live", True)
    check: bool = option("only measure the recall again; exit 1 where it is below what the release promised", False)
    seed: int = option("which queries --check draws", 1, metavar="N", minimum=0)
    fold_in: tuple[str, ...] = option(
        "events since the training, written as those that it read: files, globs or directories; new items get vectors",
        (),
        metavar="EVENTS",
    )
    items: Path | None = option("with --fold-in: items file with what is known of the new items", None, metavar="FILE")

    def run(self) -> None:
        """Publish and print the new release's id and measurements. Raises ReleaseError, SearchError, TrainerError."""
        if self.check and self.fold_in:
            raise UsageError("--check builds nothing, and --fold-in publishes a release: give one of them")
        if self.check and (self.factory != "auto" or self.search_parameters):
            raise UsageError(
                "--check measures the index that the release has, against what it promised: leave --factory and "
                "--search-parameters away, or --check"
            )
        if self.vectors is not None and (self.check or self.fold_in):
            raise UsageError(
                "--vectors rebuilds a release in another format, --check builds nothing and --fold-in keeps its "
                "format: leave --vectors away, or rebuild what --fold-in publishes"
            )
        if self.items is not None and not self.fold_in:
            raise UsageError("--items says what is known of new items: give it with --fold-in EVENTS, or leave it away")
        from engine.calibration import check_index, rebuild_index
        from engine.fold_in import fold_in
        from engine.index_progress import IndexLines
        from engine.packing import told
        from engine.plan import IndexPlan
        from engine.release import Release
        from engine.repository import Repository

        repository = Repository(self.releases)
        release_id = self.release or repository.current_path().name
        if self.check:
            for kind, found in check_index(Release(repository.path(release_id)), self.seed):
                print(f"{kind}: {found.told}")
            return
        plan, started = IndexPlan(self.factory, self.search_parameters), time.monotonic()
        how: dict[str, Any] = {
            "promote": self.promote,
            "seconds": self.seconds,
            "progress": IndexLines(lambda text: _log.info("[%6.1f s] %s", time.monotonic() - started, text)),
        }
        if self.fold_in:
            published, index = fold_in()(
                repository, release_id, self.fold_in, self.items, plan, self.recall, on_step=_log.info, **how
            )
        else:
            published, index = rebuild_index(repository, release_id, plan, self.recall, vectors=self.vectors, **how)
        chosen = IndexPlan(index["factory"], index["search_parameters"])
        batches = ", ".join(f"{size}: {us:.0f} us" for size, us in index["microseconds_in_batches"].items())
        print(f"{chosen}; a query in batches of {batches}")
        for kind, measured in index["measured"].items():
            print(
                f"{kind}: recall@20 {measured['recall@20']:.4f} (lower 95% bound {measured['lower_95']:.4f}), "
                f"median {measured['median_microseconds']:.0f} us, {measured['queries']} queries"
            )
        packing = told(Release(repository.path(published)).manifest)
        if packing:
            print(packing)
        print(published)


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """Compile the kernels for this processor, so that nothing later waits for it.

    They are kept in numba's cache: beside the installed package, or below NUMBA_CACHE_DIR. An image can carry it.
    """

    def run(self) -> None:
        """Print, for each module, seconds and the number of kernels that had to be compiled."""
        from engine.kernels import load_kernels

        for loaded in load_kernels():
            compiled = f"{loaded.compiled} compiled" if loaded.compiled else "all from the cache"
            print(f"{loaded.module:<20} {loaded.seconds:6.2f} s  {compiled}")
