"""What is told while an index is chosen: every step counted, the same way in a log and on a terminal."""

from __future__ import annotations

import io
import logging
import re

import numpy as np
import pytest
import rich.console

from engine.calibration import add_measured_index, rebuild_index
from engine.commands import Index as IndexCommand
from engine.errors import IndexUnsupported
from engine.index_progress import IndexLines
from engine.measurement import Queries
from engine.plan import AUTO, IndexPlan
from engine.release import Draft
from trainer import progress as trainer_progress
from trainer.progress import Steps, index_progress

N, FACTORS = 10_000, 8
SHOW_CURSOR, UP_AND_CLEAR = "\x1b[?25h", "\x1b[1A\x1b[2K"


def build(tmp_path, plan, progress):
    """A catalogue just large enough that codes of one bit are tried beside exact search."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(N, FACTORS)).astype(np.float32)
    queries = generator.normal(size=(40, FACTORS)).astype(np.float32)
    nothing = [np.empty(0, dtype=np.int32)] * len(queries)
    with Draft(tmp_path, "r") as draft:
        available = np.ones(N, dtype=bool)
        add_measured_index(draft, plan, vectors, available, {"user": Queries(queries, nothing)}, 0.5, 0.0, progress)


def test_a_choice_is_told_step_by_step(tmp_path):
    lines = []
    build(tmp_path, IndexPlan(AUTO), IndexLines(lines.append))
    assert [line.partition(": ")[0] for line in lines] == [f"{n} of 3" for n in (1, 1, 2, 2, 3)]
    assert lines[0] == "1 of 3: building and measuring Pruned"
    assert re.fullmatch(r"1 of 3: Pruned: user 1\.0000 \(at least 1\.0000\) in \d+ us", lines[1])
    assert lines[2] == "2 of 3: building Quantized1"
    assert lines[4].startswith("3 of 3: building and measuring ")


def test_a_given_index_is_one_step(tmp_path):
    lines = []
    build(tmp_path, IndexPlan("HNSW8", "efSearch=256"), IndexLines(lines.append))
    assert lines == ["1 of 1: building and measuring HNSW8 with efSearch=256"]


def test_the_engines_command_logs_the_steps_with_the_seconds(repository, caplog, capsys):
    caplog.set_level(logging.INFO, "nearcart")
    IndexCommand(releases=repository.root).run()
    told = [record.getMessage() for record in caplog.records if record.name == "nearcart"]
    assert len(told) == 3
    for line, number in zip(told, (1, 1, 2), strict=True):
        assert re.match(rf"\[ +\d+\.\d s\] {number} of 2: \w", line)
    assert "of 2" not in capsys.readouterr().out


class Terminal(io.StringIO):
    """Remembers what is written, and says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal of 100 columns."""
    written = Terminal()
    monkeypatch.setattr("sys.stderr", written)
    monkeypatch.setattr(
        trainer_progress,
        "Console",
        lambda **_: rich.console.Console(file=written, force_terminal=True, width=100, legacy_windows=False),
    )
    return written


def seen(terminal):
    """The lines that were drawn at any time, without colours and movements."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_on_a_terminal_the_bar_names_what_is_built_and_results_stand_above_it(terminal):
    with index_progress(Steps()) as progress:
        progress.expects(2)
        progress.begins("building IVF256,Flat")
        progress.tries("IVF256,Flat with nprobe=[8]")
        progress._bar.refresh()
        progress.ends("IVF256,Flat with nprobe=8: recall")
        progress.begins("building HNSW32")
        progress.ends()
    lines = seen(terminal)
    bars = [line for line in lines if "of 2" in line and "0:00:00" in line]
    assert any(re.search(r"0 of 2 0:00:00 building IVF256,Flat$", line) for line in bars)
    assert any(line.endswith("0 of 2 0:00:00 tuning IVF256,Flat with nprobe=[8]") for line in bars)
    assert any(re.search(r"1 of 2 0:00:00 building HNSW32$", line) for line in bars)
    assert (
        sum(bool(re.fullmatch(r"\[ +\d+\.\d s\] 1 of 2: IVF256,Flat with nprobe=8: recall", line)) for line in lines)
        == 1
    )


def test_in_a_file_there_are_lines_and_no_bar(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    with index_progress(Steps()) as progress:
        progress.expects(1)
        progress.begins("measuring Pruned")
        progress.tries("Quantized1 with deviations=0.5")
        progress.ends("Pruned: recall")
    assert re.fullmatch(
        r"\[ +\d+\.\d s\] 1 of 1: measuring Pruned\n\[ +\d+\.\d s\] 1 of 1: Pruned: recall\n", written.getvalue()
    )


def test_a_quiet_command_says_nothing(terminal):
    with index_progress(Steps(quiet=True), quiet=True) as progress:
        progress.expects(1)
        progress.begins("measuring Pruned")
        progress.tries("Quantized1 with deviations=0.5")
        progress.ends("Pruned: recall")
    assert terminal.getvalue() == ""


def test_a_failed_build_leaves_no_bar_behind(terminal, repository):
    plan = IndexPlan("IVF4096,Flat")  # more lists than there are items
    with pytest.raises(IndexUnsupported), index_progress(Steps()) as progress:
        rebuild_index(repository, repository.current(), plan, 0.99, promote=False, progress=progress)
    assert "building and measuring IVF4096,Flat" in terminal.getvalue()
    assert terminal.getvalue().endswith(f"{SHOW_CURSOR}\r{UP_AND_CLEAR}")
