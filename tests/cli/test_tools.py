"""Completion of words by the shell, and `lpgpu tune`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lpgpu.cli import main
from lpgpu.train import TrainOptions
from lpgpu.train.after.tuning import words_of

SHOW = """
complete_words() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _lpgpu; echo "${COMPREPLY[*]}"
}
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_shell_completes_commands_options_values_and_files(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "digits-run").mkdir()
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    expected = {
        "lpgpu tra": "train",
        "lpgpu train dig": "digits",
        "lpgpu train digits --cyc": "--cycle",
        "lpgpu train digits --cycle ''": "V F W",
        "lpgpu train digits --epochs 3 --solver s": "serial",
        "lpgpu verify dig": "digits-run",
        "lpgpu train digits --resume dig": "digits-run",
        "lpgpu plot digits-run --out": "--output",
        "lpgpu train seq-digits --formu": "--formulation",
    }
    calls = "\n".join(f"complete_words {words}" for words in expected)
    program = script + SHOW + calls  # longer than an argument may be
    done = subprocess.run(["bash"], input=program, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and done.stdout.splitlines() == list(expected.values())


def test_completion_for_zsh_begins_with_its_bash_emulation(capsys: pytest.CaptureFixture):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("autoload -U +X bashcompinit && bashcompinit\n")


def test_tune_prints_the_command_that_trains_with_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture):
    small = ["--layers=16", "--channels=2", "--device=cpu", "--levels=2", "--threads=1"]
    assert main(["tune", "peaks", *small, "--by=depth", "--tries=1", "--gradient-error=0.9"]) == 0
    *table, command = capsys.readouterr().out.splitlines()
    assert any("<- chosen" in line for line in table)
    assert command.startswith("lpgpu train peaks")
    run = ["--epochs=1", f"--run-dir={tmp_path / 'run'}"]
    assert main([*command.split()[1:], *small[:3], *run]) == 0


@pytest.mark.parametrize("words", [["--tries=0"], ["--gradient-error=-1"], ["--run=/nowhere"]])
def test_what_cannot_be_tuned(words: list[str], capsys: pytest.CaptureFixture):
    assert main(["tune", "peaks", "--layers=8", "--device=cpu", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_is_tuned_as_it_was_trained(tmp_path: Path, capsys: pytest.CaptureFixture):
    run, small = tmp_path / "run", ["--layers=8", "--channels=2", "--device=cpu", "--levels=2", "--threads=1"]
    assert main(["train", "peaks", "--epochs=1", *small, f"--run-dir={run}"]) == 0
    tune = ["--by=depth", "--tries=1", f"--run={run}"]
    assert main(["tune", "peaks", "--device=cpu", *tune]) == 0
    capsys.readouterr()
    assert main(["tune", "peaks", "--layers=16", *tune]) == 2
    assert f"layers is 16, but the run of {run} has 8" in capsys.readouterr().err
    assert main(["tune", "digits", *tune]) == 2
    assert f"{run} is a run of peaks, not of digits" in capsys.readouterr().err


def test_words_give_the_solver_back():
    options = TrainOptions(levels=4, coarsening=(8, 4, 2), relaxation="F", tolerance=1e-3, cycle="W")
    words = words_of(options.mgrit(), TrainOptions())
    assert words == "--levels 4 --coarsening 8,4,2 --relaxation F --cycle W --tolerance 0.001"
    assert words_of(options.mgrit(), options) == ""
