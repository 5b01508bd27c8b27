"""What a run shows while it trains: a bar on a terminal, lines elsewhere."""

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lpgpu.train import Run, train
from lpgpu.train.loop.trainer import Trainer
from tests.train.helpers import InterruptAtStep, tiny_run

pytestmark = pytest.mark.usefixtures("no_plots")
BATCH = r"digits: +\d+% {0} \[\d\d:\d\d<.*, .*(batch/s|s/batch), epoch {1}, loss \d+\.\d+, acc \d+\.\d%, {2}\]"
RATE = r"\d+ examples/s"


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_lines_are_few(tmp_path: Path, capsys: pytest.CaptureFixture):
    train(tiny_run(tmp_path / "run"))
    err = capsys.readouterr().err
    first, last, tests = err.splitlines()
    assert re.fullmatch(BATCH.format("1/8", 1, RATE), first) and "\r" not in err
    assert re.fullmatch(BATCH.format("8/8", 2, r"test acc \d+\.\d%"), last)
    assert tests == "digits: all epochs are done; testing"


def test_lines_come_after_their_time(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lpgpu.train.loop.progress.LINES", 0.0)
    train(tiny_run(tmp_path / "run"))
    lines = capsys.readouterr().err.splitlines()
    done = [(1, RATE), (2, RATE), (3, RATE), (4, "testing"), (4, "test acc .*")]
    expected = [(epoch, 4 * (epoch - 1) + batches, what) for epoch in (1, 2) for batches, what in done]
    for line, (epoch, batches, what) in zip(lines, expected, strict=False):
        assert re.fullmatch(BATCH.format(f"{batches}/8", epoch, what), line)
    assert len(lines) == len(expected) + 1


def test_on_a_terminal_a_bar_tells_when_it_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also in epochs that are shorter than the time between two looks at the loss."""
    terminal, evaluate = Terminal(), Trainer.evaluate
    shown: list[str] = []

    def look(trainer: Trainer) -> tuple[float, float]:
        shown.append(terminal.getvalue().split("\r")[-1])
        return evaluate(trainer)

    monkeypatch.setattr(Trainer, "evaluate", look)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("lpgpu.train.loop.progress.REFRESH", 1e9)
    train(tiny_run(tmp_path / "run"))
    assert "4/8" in shown[0] and re.search(r"epoch 1, loss .*, testing", shown[0])
    assert "8/8" in shown[1] and re.search(r"epoch 2, loss .*, testing", shown[1])
    bar = shown[2].splitlines()  # before the last tests
    assert "8/8" in bar[0] and re.search(r"epoch 2, .*, test acc \d", bar[0])
    assert bar[1:] == ["digits: all epochs are done; testing"]
    bars = terminal.getvalue().split("\r")
    assert any(re.search(r"1/8 .*epoch 1, .*" + RATE, bar) for bar in bars)
    assert any(re.search(r"4/8 .*epoch 1, .*, test acc \d", bar) for bar in bars)


def test_a_resumed_run_goes_on_counting(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    run = tiny_run(tmp_path / "run", checkpoint_every=1)
    with monkeypatch.context() as patch:
        InterruptAtStep(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    capsys.readouterr()
    train(Run.resume(run.folder, {}))
    assert re.fullmatch(BATCH.format("6/8", 2, RATE), capsys.readouterr().err.splitlines()[0])


def test_the_rate_is_over_all_epochs_since_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    clock, step = [0.0], Trainer._step

    def a_second(trainer: Trainer, *rest) -> None:
        clock[0] += 1
        step(trainer, *rest)

    monkeypatch.setattr("lpgpu.train.loop.progress.time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("lpgpu.train.loop.progress.LINES", 6.0)
    monkeypatch.setattr(Trainer, "_step", a_second)
    run = tiny_run(tmp_path / "run")
    train(run)
    examples = len(Trainer(run.recipe, run.options).data.train_labels)
    expected = (examples - 400 + 3 * 400) / 6  # the first epoch's, less the first batch, and three of the second
    line = capsys.readouterr().err.splitlines()[1]
    assert " 7/8 " in line and f"{expected:.0f} examples/s" in line
