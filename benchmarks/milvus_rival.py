"""Milvus standalone beside `nearcart serve`, for benchmarks.latency: the same item vectors, users' vectors and k.

Its packages are too old to stand beside ours, so it has an environment of its own:

    python3 -m venv DIR
    DIR/bin/pip install milvus==2.3.5 pymilvus==2.3.7 'setuptools<80' 'marshmallow<4'
    python -m benchmarks.latency --milvus-venv DIR

(the first two lines are run where DIR is absent; they were tried on Python 3.11). In there
benchmarks/milvus_child.py starts the server on loopback, fills it, and builds HNSW (M 16, efConstruction 200, inner
product) on all cores; in each turn the server starts anew with all its threads on our server's core. Its ef is raised
until the recall is ours or no longer rises. Less is asked of it: users come as vectors, not as ids, and nothing is left
out of the answers. It is measured with its own client, with one and with 16 threads, and by our load with requests
encoded beforehand, so that no client stands in its way.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.http2_requests import Request
from benchmarks.latency_rounds import SHARES, Rows, Times, WireRounds
from benchmarks.made_release import AskedUsers, K
from benchmarks.pinned_servers import ROOT, Cores, on_core

PACKAGES = ("milvus==2.3.5", "pymilvus==2.3.7", "setuptools<80", "marshmallow<4")
EFS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Tried in turn; Milvus takes none below k."""
ENOUGH_RECALL = 0.99
"""What our release promises."""
_RISES = 0.002
"""Where twice the ef gives less than this, more of it is a waste."""
_CHILD = "from benchmarks.milvus_child import main; main()"
_STOP_SECONDS = 60
_SEARCH = "/milvus.proto.milvus.MilvusService/Search"


class MilvusFailed(Exception):
    """The process with Milvus ended; its own words stand on standard error."""


class MilvusRival:
    """A server that holds one release's vectors, from `with` to its end."""

    def __init__(self, venv: Path, asked: AskedUsers, times: Times, cores: Cores) -> None:
        self._venv, self._asked, self._times, self._cores = venv, asked, times, cores
        self._ef = 0
        self._folder = tempfile.TemporaryDirectory(prefix="nearcart-milvus-")

    def __enter__(self) -> MilvusRival:
        folder = Path(self._folder.name)
        np.save(folder / "items.npy", self._asked.item_vectors)
        np.save(folder / "users.npy", self._asked.vectors)
        if not (self._venv / "bin" / "python").is_file():
            make_environment(self._venv)
        child = [str(self._venv / "bin" / "python"), "-c", _CHILD]
        settings = [str(folder), str(self._cores.server), str(self._cores.load), str(K)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([*child, *settings], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        try:
            self._facts = self._read()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # the child stops its server and ends
        self._process.wait(_STOP_SECONDS)
        self._process.stdout.close()
        self._folder.cleanup()

    def rounds(self, repeat: int) -> Rows:
        """With its own client, and by our load. The server runs meanwhile and no longer: it is never quite idle."""
        address = self._ask(do="start")["address"]
        if not self._ef:
            self._choose_ef()
        with on_core(self._cores.load):
            for threads in (1, 16):
                found = self._ask(do="ask", threads=threads, seconds=self._times.seconds, ef=self._ef)
                answers = found.pop("answers")
                recall = self._recall([user for user, _ in answers], [rows for _, rows in answers])
                judged = {"recall": recall, "answers_judged": len(answers)}
                yield {**self._facts, "measured": f"own client, {threads} in flight", "ef": self._ef, **found, **judged}
        encoded = self._ask(do="encode", ef=self._ef)["requests"]
        requests = [Request(_SEARCH, base64.b64decode(each)) for each in encoded]
        rounds = WireRounds(address, requests, self._judge, self._times, self._cores)
        for row in rounds.rounds(SHARES, repeat):
            yield {**self._facts, "ef": self._ef, **row}
        self._ask(do="stop")

    def _choose_ef(self) -> None:
        """The first that reaches the recall, or the last that was worth it."""
        before, self._ef = -1.0, EFS[0]
        for ef in EFS:
            answers = self._ask(do="ask", threads=1, seconds=0.0, ef=ef)["answers"]
            recall = self._recall([user for user, _ in answers], [rows for _, rows in answers])
            print(f"milvus: ef {ef} finds {recall:.4f} of the true best {K}", flush=True)
            if recall < before + _RISES:
                return
            before, self._ef = recall, ef
            if recall >= ENOUGH_RECALL:
                return

    def _judge(self, users: Sequence[int], payloads: Sequence[bytes]) -> float:
        decoded = self._ask(do="decode", answers=[base64.b64encode(each).decode() for each in payloads])
        return self._recall(users, decoded["rows"])

    def _recall(self, users: Sequence[int], answers: Sequence[Sequence[int]]) -> float:
        truth = self._asked.truth_of_all.among(np.asarray(users))
        return float(truth.recalls(answers).mean())

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MilvusFailed(f"Milvus's process ended with {self._process.wait(_STOP_SECONDS)}")
        return dict(json.loads(line))


def make_environment(venv: Path) -> None:
    """Install Milvus into an environment of its own. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
