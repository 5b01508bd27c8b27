"""Comparisons: every variant from every seed, finished ones kept, begun ones resumed, one table."""

import dataclasses
import json
from pathlib import Path

import pytest

from lpgpu.train import Comparison, InputError, TrainingDivergedError, TrainOptions, find_recipe, variants_of
from lpgpu.train.loop import compare as compare_module
from lpgpu.train.reports.compare_report import Outcome, format_table
from lpgpu.train.runs.metrics import read_records
from tests.data.har_files import few_windows, write_npz

SMALL = {"epochs": 1, "batch_size": 700, "hidden_size": 2, "num_layers": 1, "levels": 2, "device": "cpu"}


def options(folder: Path, **changes) -> TrainOptions:
    return dataclasses.replace(find_recipe("seq-digits").defaults, **{**SMALL, **changes, "run_dir": folder})


def comparison(folder: Path, seeds=(0, 1), variants=None, **changes) -> Comparison:
    return Comparison.create(find_recipe("seq-digits"), options(folder, **changes), seeds, variants)


def outcome(variant: str, seed: int, serial: float | None, parallel: float | None) -> Outcome:
    epoch = {"kind": "epoch", "epoch": 1, "seconds": {"forward": 2.0, "backward": 1.0}}
    summary = {"kind": "summary", "test_accuracy_serial": serial, "test_accuracy_parallel": parallel}
    return Outcome(variant, seed, (epoch,) if serial is None else (epoch, summary))


def test_variants():
    names = [variant.name for variant in variants_of(find_recipe("uci-har"))]
    assert names == ["classic-serial", "classic-mgrit", "implicit-serial", "implicit-mgrit"]
    assert [variant.name for variant in variants_of(find_recipe("digits"))] == ["serial", "mgrit"]


def test_table_by_hand():
    outcomes = [outcome("a", 0, 0.9, 0.8), outcome("a", 1, 0.92, None), outcome("b", 0, None, None)]
    lines = format_table([*outcomes, outcome("b", 1, 0.5, 0.25)], [0, 1]).splitlines()
    assert lines[0] == "| training | inference | mean ± std | seed 0 | seed 1 | s/epoch |"
    assert lines[2] == "| a | serial | 91.00% ± 1.41 | 90.00% | 92.00% | 3.0 |"  # √2/100
    assert lines[3] == "| a | parallel | 80.00% | 80.00% | – | 3.0 |"
    assert lines[4] == "| b | serial | 50.00% | – | 50.00% | 3.0 |"
    assert lines[5] == "| b | parallel | 25.00% | – | 25.00% | 3.0 |"


@pytest.mark.filterwarnings("ignore::lpgpu.DivergenceWarning")
def test_all_variants_and_seeds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lpgpu.train.loop.training.draw_plots", lambda folder: [])
    told: list[str] = []
    table = comparison(tmp_path / "all").run(told.append)
    folders = sorted(path.name for path in (tmp_path / "all").iterdir() if path.is_dir())
    assert folders == sorted(f"{v.name}-seed-{s}" for v in variants_of(find_recipe("seq-digits")) for s in (0, 1))
    assert (tmp_path / "all" / "comparison.md").read_text().endswith(table + "\n")
    assert (tmp_path / "all" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert len(told) == 8 and all(line.endswith(": trained") for line in told)
    for folder in folders:
        stored = json.loads((tmp_path / "all" / folder / "config.json").read_text())["options"]
        assert folder == f"{stored['formulation']}-{stored['solver']}-seed-{stored['seed']}"
        summary = read_records(tmp_path / "all" / folder / "metrics.jsonl")[-1]
        assert f"{summary['test_accuracy_serial']:.2%}" in table
        same = summary["test_accuracy_parallel" if stored["solver"] == "mgrit" else "test_accuracy_serial"]
        assert summary["test_accuracy"] == same

    def refuse(run):
        raise AssertionError(f"{run.folder} was trained again")

    monkeypatch.setattr(compare_module, "train", refuse)
    assert comparison(tmp_path / "all").run(told.append) == table
    assert len(told) == 16 and told[-1].endswith("was finished already")
    with pytest.raises(InputError, match=r"learning_rate is 0\.5, but the run of .* has 0\.005"):
        comparison(tmp_path / "all", learning_rate=0.5).run()


def test_a_begun_comparison_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lpgpu.train.loop.training.draw_plots", lambda folder: [])
    original, calls = compare_module.train, []

    def interrupted_once(run):
        calls.append(run.folder.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(run)

    monkeypatch.setattr(compare_module, "train", interrupted_once)
    small = comparison(tmp_path / "begun", (3,), ["implicit-mgrit", "implicit-serial"])
    with pytest.raises(KeyboardInterrupt):
        small.run()
    assert small.table().count("–") == 6  # mean, seed and time, in both rows of the run that was not reached
    # it stopped between the making of its folder and its first checkpoint: nothing is lost by beginning anew
    table = comparison(tmp_path / "begun", (3,), ["implicit-mgrit", "implicit-serial"]).run()
    assert "–" not in table and calls[2:] == ["implicit-serial-seed-3"]
    more = comparison(tmp_path / "begun", (3,), ["implicit-serial"], epochs=2)
    more.run()
    kinds = [r["kind"] for r in read_records(tmp_path / "begun" / "implicit-serial-seed-3" / "metrics.jsonl")]
    assert kinds == ["epoch", "epoch", "summary"]


def test_a_run_that_diverges_does_not_end_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def diverge(run):
        raise TrainingDivergedError("the loss is nan")

    told: list[str] = []
    monkeypatch.setattr(compare_module, "train", diverge)
    table = comparison(tmp_path / "bad", (0,), ["implicit-serial"]).run(told.append)
    assert told == ["implicit-serial, seed 0: training diverged: the loss is nan"]
    assert "| implicit-serial | serial | – | – | – |" in table


@pytest.mark.parametrize(
    ("seeds", "variants", "message"),
    [
        ((), None, r"seeds are \[\]; expected one or more different integers ≥ 0"),
        ((0, 0), None, r"seeds are \[0, 0\]"),
        ((-1,), None, r"seeds are \[-1\]"),
        ((0,), ["exact"], "there is no variant exact of seq-digits; expected classic-serial, classic-mgrit"),
        ((0,), [], "no variants"),
    ],
)
def test_bad_choices(tmp_path: Path, seeds, variants, message: str):
    with pytest.raises(InputError, match=message):
        comparison(tmp_path / "new", seeds, variants)
    assert not (tmp_path / "new").exists()


def test_folder_of_a_single_run(tmp_path: Path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(InputError, match="is the folder of a single run"):
        comparison(tmp_path)


def test_recipe_that_needs_data_trains_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lpgpu.train.loop.training.draw_plots", lambda folder: [])
    write_npz(tmp_path, few_windows(monkeypatch, {"train": (30,) * 6, "test": (5,) * 6}))
    recipe = find_recipe("uci-har")
    chosen = dataclasses.replace(
        recipe.defaults, epochs=2, hidden_size=8, batch_size=20, learning_rate=1e-2, data_dir=tmp_path
    )
    chosen = dataclasses.replace(chosen, run_dir=tmp_path / "runs", coarsening=(8, 4))
    Comparison.create(recipe, chosen, (0,), ["implicit-mgrit"]).run()
    *epochs, summary = read_records(tmp_path / "runs" / "implicit-mgrit-seed-0" / "metrics.jsonl")
    assert epochs[1]["train_loss"] < epochs[0]["train_loss"]
    assert summary["test_accuracy_serial"] > 0.3  # the classes differ in their means; by chance 0.17
    assert len(epochs[0]["forward_residuals"]) == 2 and epochs[0]["forward_depth"] < 2 * 128
