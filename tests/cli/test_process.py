"""The command line as a process among others: signals, closed and broken streams, ASCII terminals, ranks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lpgpu.cli import main
from tests import launcher
from tests.cli.test_cli import TINY

TRAIN = [sys.executable, "-m", "lpgpu.cli", "train", "digits", *TINY]


def _hear_signals() -> None:
    """A shell's background jobs ignore Ctrl-C, and nohup's SIGHUP, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if not path.exists():
        process.kill()
        pytest.fail(f"{path.name} did not appear: {process.communicate()}")


@pytest.mark.parametrize(
    ("number", "says"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "interrupted by SIGTERM")]
)
def test_a_signal_leaves_a_run_that_can_be_resumed(number: signal.Signals, says: str, tmp_path: Path):
    """Also within the first epoch, from the batch that was done when it came."""
    run_dir = tmp_path / "a run"
    words = ["--epochs=1000", "--batch-size=1", "--run-dir", str(run_dir)]
    with subprocess.Popen([*TRAIN, *words], stderr=subprocess.PIPE, text=True, preexec_fn=_hear_signals) as process:
        _wait_for(run_dir / "checkpoint.pt", process)
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == f"lpgpu: {says}; continue with: lpgpu train digits --resume '{run_dir}'"
    state = torch.load(run_dir / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 0 and state["measures"]["batches"] > 0


def test_a_resumed_run_goes_on_from_the_batch_of_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bit for bit; the signal comes while the first epoch tests, and again in the middle of the second."""
    from lpgpu.train import Run, TrainingInterrupted, train
    from lpgpu.train.loop.trainer import Trainer
    from tests.train.helpers import network_of, tiny_run, without_seconds

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that are started by nohup ignore it
    monkeypatch.setattr("lpgpu.train.loop.training.draw_plots", lambda folder: [])
    whole, run, left = tiny_run(tmp_path / "whole"), tiny_run(tmp_path / "run"), [2, 3]
    expected, loss = train(whole), Trainer.evaluate

    def evaluate(trainer: Trainer) -> tuple[float, float]:
        if left and left.pop():
            os.kill(os.getpid(), signal.SIGHUP)
        return loss(trainer)

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    for _ in range(2):
        with pytest.raises(TrainingInterrupted) as raised:
            train(Run.resume(run.folder, {}) if run.checkpoint.exists() else run)
        assert raised.value.signal == signal.SIGHUP
    assert without_seconds(train(Run.resume(run.folder, {}))) == without_seconds(expected)
    for name, theta in network_of(whole).items():
        assert torch.equal(theta, network_of(run)[name])
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_signals_that_are_ignored_stay_so(tmp_path: Path):
    """nohup."""
    words = ["--epochs=3", "--run-dir", str(tmp_path / "run")]
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with subprocess.Popen([*TRAIN, *words], stderr=subprocess.PIPE, text=True, preexec_fn=ignore) as process:
        _wait_for(tmp_path / "run" / "checkpoint.pt", process)
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


@pytest.mark.parametrize("closed", ["2>&- >&- <&-", "2>&1 >/dev/null | true"])
def test_nobody_needs_to_read_what_is_said(closed: str, tmp_path: Path):
    run_dir = tmp_path / "run"
    words = f"'{sys.executable}' -m lpgpu.cli train digits {' '.join(TINY)} --epochs 2 --run-dir '{run_dir}' {closed}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    kinds = [json.loads(line)["kind"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["epoch", "epoch", "summary"]


@pytest.mark.parametrize("locale", [{"LC_ALL": "POSIX"}, {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}])
def test_ascii_terminals(locale: dict[str, str], tmp_path: Path):
    """The help has letters that they lack; and folders may have, too."""
    run_dir = tmp_path / "Läufe"
    script = f"""
import sys
from lpgpu.cli import main
try:
    main(["train", "digits", "--help"])
except SystemExit:
    pass
print(main(["train", "digits", "--levels=0"]), main([*{TRAIN[3:]!r}, "--run-dir", sys.argv[1]]))
"""
    bare = {"PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", **locale}
    command = [sys.executable, "-c", script, str(run_dir)]
    done = subprocess.run(command, env={**os.environ, **bare}, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == b"2 0" and b"levels is 0" in done.stderr
    assert (run_dir / "metrics.jsonl").exists()


def test_a_reader_that_has_had_enough():
    command = [sys.executable, "-m", "lpgpu.cli", "train", "digits", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(60) in (0, 1)
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize("launched", launcher.those_that_start("mpiexec", "forked"))
class TestRanks:
    """Two of them."""

    CLI = Path(launcher.ROOT) / "lpgpu" / "cli" / "__main__.py"

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["train", "digits", "--epohcs=3"], "did you mean --epochs?"),
            (["train", "digits", "--data-ranks=5"], "but there are 2 ranks"),
        ],
    )
    def test_a_usage_error_is_said_once(self, launched: str, words: list[str], says: str):
        done = launcher.run(launched, 2, self.CLI, *words, timeout=60)
        assert done.status != 0
        assert [says in text for text in done.of_ranks] == [True, False], done.everything
        assert all("Traceback" not in text for text in done.of_ranks)

    def test_a_signal_to_one_rank_ends_all_with_a_checkpoint(self, launched: str, tmp_path: Path):
        script = tmp_path / "script.py"
        script.write_text(
            "import os, signal, sys, threading\n"
            "from lpgpu.cli import main\n"
            "from lpgpu.comm.launcher import launched_rank\n"
            "if launched_rank() == 1:\n"
            "    def later():\n"
            f"        while not os.path.exists({str(tmp_path / 'run' / 'checkpoint.pt')!r}): pass\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "    threading.Thread(target=later, daemon=True).start()\n"
            f"sys.exit(main({['train', 'digits', *TINY, '--epochs=1000', '--run-dir', str(tmp_path / 'run')]!r}))\n"
        )
        done = launcher.run(launched, 2, script, timeout=90)
        assert "interrupted by SIGTERM; continue with: lpgpu train digits --resume" in done.of_ranks[0], done.everything
        assert "interrupted" not in done.of_ranks[1], done.everything
        assert main(["train", "digits", "--resume", str(tmp_path / "run"), "--epochs=1"]) in (0, 2)
