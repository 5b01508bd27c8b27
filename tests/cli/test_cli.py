"""The command line: help, messages, exit codes."""

import dataclasses
import json
from pathlib import Path

import pytest

import lpgpu
from lpgpu import MGRIT
from lpgpu.cli import main
from lpgpu.train import RECIPES, find_recipe
from lpgpu.train.setup.option_types import shown

TINY = ["--epochs=1", "--batch-size=700", "--layers=8", "--channels=2", "--levels=2", "--device=cpu"]


@pytest.mark.parametrize("name", RECIPES)
def test_help_explains_every_option_with_its_default(name: str, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no help text is broken
    with pytest.raises(SystemExit) as done:
        main(["train", name, "--help"])
    assert done.value.code == 0
    _, *entries = capsys.readouterr().out.split("\n  --")
    helps = {entry.split()[0].rstrip(","): " ".join(entry.partition("\n\n")[0].split()) for entry in entries}
    defaults = RECIPES[name].defaults
    for field in dataclasses.fields(defaults):
        text = helps[field.name.replace("_", "-")]
        assert field.metadata["help"] in text
        default = getattr(defaults, field.name)
        assert default is None or text.endswith(f"[{shown(default)}]")
    assert "continue" in helps["resume"]


def test_train_prints_a_summary_on_stdout_and_progress_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["train", "digits", *TINY, "--run-dir", str(tmp_path / "run")]) == 0
    out, err = capsys.readouterr()
    for words in ("test accuracy", "exact inference", "residual per cycle", "forward", "backward", "optimizer", "data"):
        assert words in out
    assert str(tmp_path / "run") in out
    assert "batch/s" in err or "s/batch" in err
    assert "loss" in err and "acc" in err


def test_options_reach_the_run(tmp_path: Path):
    options = ["--seed", "7", "--solver", "serial", "--learning-rate", "0.02", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "digits", *TINY, *options]) == 0
    options = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert (options["seed"], options["solver"], options["learning_rate"]) == (7, "serial", 0.02)


def test_every_field_of_the_solver_reaches_the_run(tmp_path: Path):
    """Also those that MGRIT learns later: options follow its fields."""
    words = {
        "levels": "3", "coarsening": "4,2", "iterations": "3", "adjoint_iterations": "2", "relaxation": "F,FCF",
        "cycle": "W", "tolerance": "1e-3", "adjoint_tolerance": "none", "min_coarse_steps": "1", "delta": "none",
        "coarse_operator": "picard", "picard_order": "2", "initial_guess": "constant", "store": "c_points",
        "chunk": "3", "on_divergence": "raise",
    }  # fmt: skip
    given = [f"--{name.replace('_', '-')}={text}" for name, text in words.items()]
    assert main(["train", "digits", *TINY, *given, "--scheme=midpoint", "--run-dir", str(tmp_path / "run")]) == 0
    options = find_recipe("digits").defaults.from_json(
        json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    )
    assert options.mgrit() == MGRIT(
        levels=3, coarsening=(4, 2), iterations=3, adjoint_iterations=2, relaxation=("F", "FCF"), cycle="W",
        tolerance=1e-3, min_coarse_steps=1, delta="none",
        coarse_operator="picard", picard_order=2, initial_guess="constant", store="c_points", chunk=3,
        on_divergence="raise",
    )  # fmt: skip
    assert options.scheme == "midpoint"


def test_bare_options_and_switches(tmp_path: Path):
    small = ["--epochs=1", "--batch-size=5000", "--layers=8", "--channels=2", "--solver=serial", "--device=cpu"]
    words = ["--nested", "--nested-epochs=2,1", "--mgopt-steps", "1,0,2", "--amp", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "peaks", *small, *words]) == 0
    options = json.loads((tmp_path / "run" / "config.json").read_text())["options"]
    assert (options["nested"], options["nested_epochs"], options["mgopt_steps"]) == (64, [2, 1], [1, 0, 2])
    assert options["amp"] is True and options["check_serial"] is False
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["level"] for record in records if record["kind"] == "nested"] == [2, 2, 1]


def test_resume_by_command_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    run_dir = tmp_path / "run"
    assert main(["train", "digits", *TINY, "--run-dir", str(run_dir)]) == 0
    assert main(["train", "digits", "--resume", str(run_dir), "--epochs", "2"]) == 0
    kinds = [json.loads(line)["kind"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["epoch", "epoch", "summary"]
    capsys.readouterr()
    assert main(["plot", str(run_dir)]) == 0
    assert str(run_dir / "curves.png") in capsys.readouterr().out


def test_plot_of_several_runs_is_one_new_file(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, solver in (("a", "serial"), ("b", "mgrit")):
        assert main(["train", "digits", *TINY, "--solver", solver, "--run-dir", name]) == 0
    capsys.readouterr()
    assert main(["plot", "a", "b"]) == 0
    assert capsys.readouterr().out == "runs.html\n" and Path("runs.html").read_bytes().startswith(b"<!doctype html>")
    assert main(["plot", "a", "b"]) == 2
    assert "runs.html exists, and was not touched" in capsys.readouterr().err
    assert main(["plot", "a", "--output", "a.png"]) == 0
    assert capsys.readouterr().out == "a.png\n" and Path("a.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", "a", "nowhere", "--output", "c.png"]) == 2
    assert not Path("c.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "--epochs", "0"], "epochs is 0; expected an integer ≥ 1"),
        (["train", "digits", "--coarsening", "1"], "coarsening is 1; expected at least 2"),
        (["train", "digits", "--device", "tpu9"], "device is 'tpu9'"),
        (["train", "digits", "--resume", "/nowhere"], "/nowhere is not the folder of a run"),
        (["plot", "/nowhere"], "/nowhere/metrics.jsonl does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments, message, capsys: pytest.CaptureFixture, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("lpgpu: error: ") and message in err
    assert list(tmp_path.iterdir()) == []  # no run folder was begun


def test_bench_runs_the_scripts_of_the_checkout(capfd: pytest.CaptureFixture):
    assert main(["bench", "kernels", "--estimates", "H100", "--quick", "--only", "fas"]) == 0
    assert "nothing here was measured" in capfd.readouterr().out
    assert main(["bench", "--explain", "--quick", "--only", "fas"]) == 0
    assert "A model of one H100" in capfd.readouterr().out
    with pytest.raises(SystemExit) as done:
        main(["bench", "solver", "--cases", "none-such"])
    assert done.value.code == 2


def test_bench_needs_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    monkeypatch.setattr("lpgpu.__file__", str(tmp_path / "lpgpu" / "__init__.py"))
    assert main(["bench"]) == 2
    assert "benchmarks run in a source checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "cifar"], ", ".join(map(repr, RECIPES))),
        (["train", "digist"], "there is no 'digist' (did you mean digits?)"),
        (["train", "digits", "--epohcs", "3"], "--epohcs (did you mean --epochs?); see lpgpu train digits --help"),
        (["train", "digits", "--epoch=3"], "no option or argument --epoch=3 (did you mean --epochs?)"),
        (["train", "digits", "twice"], "there is no option or argument twice; see lpgpu train digits --help"),
        (["polt", "run"], "there is no 'polt' (did you mean plot?)"),
        (["train", "digits", "--epochs", "many"], "argument --epochs: it is 'many'; expected N"),
        (["train", "digits", "--coarsening", "4,x"], "argument --coarsening: it is '4,x'; expected N[,N…]"),
        (["train", "digits", "--solver", "exact"], "'mgrit', 'serial'"),
        ([], "COMMAND"),
    ],
)
def test_bad_words_are_named_in_one_line(arguments, message, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""


def test_version(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0 and capsys.readouterr().out == f"lpgpu {lpgpu.__version__}\n"


def test_existing_results_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "metrics.jsonl").write_text("old")
    assert main(["train", "digits", *TINY, "--run-dir", str(tmp_path)]) == 2
    assert "choose another --run-dir, or continue that run with --resume" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == "old"


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch):
    def bug() -> str:
        raise ValueError("a bug")

    monkeypatch.setattr("lpgpu.cli.info.describe", bug)
    with pytest.raises(ValueError, match="a bug"):
        main(["info"])


def test_info(capsys: pytest.CaptureFixture):
    assert main(["info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["lpgpu"] == lpgpu.__version__
    assert {"python", "torch", "triton", "cupy", "mpi4py", "nvtx", "threads", "CUDA", "kernels"} <= set(lines)
