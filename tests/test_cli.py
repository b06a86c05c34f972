"""The command line as a user meets it: help, exit codes, errors without tracebacks."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from engine.cli import commands, main


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("demo", "train", "evaluate", "index", "releases", "serve", "query"):
        assert f"\n  {name} " in text


@pytest.mark.parametrize("name", sorted(commands()))
def test_each_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert f"usage: nearcart {name}" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nearcart {importlib.metadata.version('nearcart')}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "usage: nearcart"),
        (["trian"], 2, "unknown command 'trian'; expected one of: demo, train"),
        (["serve"], 2, "required: --releases"),
        (
            ["serve", "--releases", "nowhere", "--address", "127.0.0.1:0", "--admin-address", ""],
            1,
            "there is no directory nowhere",
        ),
        (["serve", "--releases", "nowhere", "--device", "gpu"], 1, "--device gpu"),
        (["serve", "--releases", "nowhere", "--workers", "0"], 2, "--workers"),
        (["releases", "verify", "nothing", "--releases", "nowhere"], 1, "has no release 'nothing'"),
        (["releases", "promote", "--releases", "nowhere"], 2, "needs the id"),
        (["releases", "rollback", "--releases", "nowhere"], 1, "nothing to roll back to"),
        (["releases", "rollback", "some-id", "--releases", "nowhere"], 2, "takes no id"),
        (["releases", "list", "some-id", "--releases", "nowhere"], 2, "takes no id"),
        (["releases", "destroy", "--releases", "nowhere"], 2, "expected one of list, verify"),
        (["query", "user", "a", "--user", "b"], 2, "--user means nothing"),
        (["query", "similar", "a", "--repeat", "only"], 2, "--repeat means nothing"),
        (["query", "cart", "a", "--recent", "b"], 2, "--recent means nothing"),
        (["train", "--factors", "4", "nowhere.csv", "--releases", "nowhere", "elsewhere.csv"], 1, "nowhere.csv"),
        (["train", "nowhere.csv", "--releases", "nowhere", "--factory", "NoSuchIndex"], 1, "NoSuchIndex"),
        (["train", "nowhere.csv", "--releases", "nowhere", "--factory", "HNSW1"], 1, "2 links"),
        (["train", "nowhere.csv", "--releases", "nowhere", "--init-scale", "0"], 2, "--init-scale"),
        (["index", "--releases", "nowhere"], 1, "there is no directory nowhere"),
        (["index", "--releases", "nowhere", "--recall", "1.5"], 2, "at most 1"),
        (["query", "user", "a", "b"], 2, "takes one id"),
        (["query", "user", "a", "--filter", "category in (cups)"], 2, "is not the JSON of a filter"),
        (["query", "user", "a", "--filter", "{}"], 2, "filter: is empty"),
        (["query", "user", "a", "--address", "127.0.0.1:1", "--timeout-seconds", "1"], 1, "127.0.0.1:1"),
        (["train", "nowhere.csv", "--releases", "nowhere"], 1, "nowhere.csv"),
        (["train", "nowhere.csv", "--releases", "nowhere", "--event-weights", "view"], 2, "KIND=NUMBER"),
        (["train", "nowhere.csv", "--releases", "nowhere", "--recall", "2"], 2, "at most 1"),
        (["evaluate", "--train", "nowhere.csv"], 2, "needs --test EVENTS, or --candidates FILE"),
        (["evaluate", "--train", "a", "--test", "b", "--metrics", "wit@3"], 2, "unknown metric 'wit@3'"),
    ],
)
def test_what_cannot_be_done_says_why_and_exits_with_its_code(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_terminating_a_command_ends_it_by_its_own_exit(tmp_path):
    """So that temporary files go: a signal alone would run no `finally`."""
    script = (
        "import os, signal, sys, engine.cli as cli, engine.configuration\n"
        "class Slow:\n"
        "    def run(self):\n"
        "        try:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "            signal.pause()\n"
        "        finally:\n"
        "            print('cleaned', flush=True)\n"
        "cli.parse = lambda *given: Slow()\n"
        "cli.as_mapping = lambda command: {}\n"
        "sys.exit(cli.main(['demo']))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (143, "cleaned\n"), found.stderr


def test_a_live_release_that_is_not_there_is_an_error_of_listing(tmp_path, capsys):
    (tmp_path / "20260101T000000.000Z-abcdef").mkdir()
    (tmp_path / "CURRENT").write_text("nonsense\n")
    assert main(["releases", "list", "--releases", str(tmp_path)]) == 1
    assert "CURRENT names 'nonsense', which is not there" in capsys.readouterr().err
    assert main(["releases", "list", "--releases", str(tmp_path / "nowhere")]) == 1


def test_help_and_a_client_load_neither_faiss_nor_what_training_needs():
    script = (
        "import sys, contextlib, io; from engine.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        "    main(['--help'])\n"
        "    main(['query', 'user', 'a', '--address', '127.0.0.1:1', '--timeout-seconds', '0.2'])\n"
        "heavy = {'faiss', 'numba', 'duckdb', 'pyarrow', 'scipy', 'rich', 'threadpoolctl'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_server_loads_nothing_that_only_training_needs():
    script = (
        "import sys, engine.server, engine.retrieval, engine.calibration\n"
        "print(sorted({'duckdb', 'pyarrow', 'rich', 'trainer'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_missing_training_package_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    for name in [name for name in sys.modules if name.startswith("trainer.")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["train", "a.csv", "--releases", "b"]) == 1
    assert "pip install 'nearcart[train]'" in capsys.readouterr().err
