"""`lpgpu compare`, and recipes that need data, on the command line."""

from pathlib import Path

import pytest

from lpgpu.cli import main
from lpgpu.train import RECIPES

TINY = ["--epochs=1", "--batch-size=700", "--hidden-size=2", "--num-layers=1", "--levels=2", "--device=cpu"]


def test_compare_prints_the_table_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setattr("lpgpu.train.loop.training.draw_plots", lambda folder: [])
    command = ["compare", "seq-digits", *TINY, "--variants=implicit-mgrit", "--run-dir", str(tmp_path / "runs")]
    assert main([*command, "--seeds=4"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("| training | inference | mean ± std | seed 4 |")
    assert out.count("implicit-mgrit") == 2 and str(tmp_path / "runs" / "comparison.png") in out
    assert "implicit-mgrit, seed 4: trained" in err
    assert main([*command, "--seeds=4,5"]) == 0
    err = capsys.readouterr().err
    assert "seed 4: was finished already" in err and "seed 5: trained" in err


@pytest.mark.parametrize("name", RECIPES)
def test_help_names_the_variants(name: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as done:
        main(["compare", name, "--help"])
    assert done.value.code == 0
    out = capsys.readouterr().out
    assert "mgrit]" in out and "--epochs" in out and "[--solver" not in out and "--seed " not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "exact"], "there is no variant exact of seq-digits"),
        (["--seeds", "1,1"], "seeds are [1, 1]; expected one or more different integers ≥ 0"),
        (["--hidden-size", "0"], "hidden_size is 0; expected an integer ≥ 1"),
    ],
)
def test_bad_input(arguments, message, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "seq-digits", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lpgpu: error: ") and message in err
    assert list(tmp_path.iterdir()) == []


def test_seeds_that_are_no_numbers(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        main(["compare", "seq-digits", "--seeds", "one"])
    assert "argument --seeds: it is 'one'; expected N[,N…]" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("recipe", ["uci-har", "mnist", "fashion-mnist", "indian-pines", "hmdb51"])
def test_absent_data_are_one_line_and_leave_no_run(
    command: str, recipe: str, capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main([command, recipe, "--data-dir", str(tmp_path), "--run-dir", "run"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and " holds n" in err and "--data-dir" in err
    assert list(tmp_path.iterdir()) == []


def test_one_coarsening_per_level(tmp_path: Path, capsys: pytest.CaptureFixture):
    command = ["train", "seq-digits", *TINY[:-2], "--levels=3", "--coarsening=8,2", "--relaxation=FCF,F"]
    assert main([*command, "--run-dir", str(tmp_path / "run")]) == 0
    assert "MGRIT, m = 8, 2, up to 3 levels" in capsys.readouterr().out
    assert main(["train", "seq-digits", "--resume", str(tmp_path / "run"), "--coarsening=8,2", "--epochs=2"]) == 0
    assert main(["train", "seq-digits", "--resume", str(tmp_path / "run"), "--coarsening=8"]) == 2
    assert "coarsening is 8, but the run of" in capsys.readouterr().err
