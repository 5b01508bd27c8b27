"""Plots that can be read: what was run in the title, whole epochs, plain ticks, every level of nested iteration."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from lpgpu.train import InputError, draw_plots, draw_runs
from lpgpu.train.reports.figures import title_of
from lpgpu.train.reports.plots import curves, residuals, timing
from lpgpu.train.reports.several import compare
from lpgpu.train.reports.space_time import VERIFICATION, read_verification, space_time
from lpgpu.train.runs.metrics import Record, append_record
from lpgpu.train.setup.options import TrainOptions


def record(epoch: int, level: int = 0, **changes: Any) -> Record:
    losses = {"train_loss": 1.4 / epoch, "test_loss": 1.5 / epoch, "train_accuracy": 0.5, "test_accuracy": 0.4}
    norms = {"forward_residuals": [9.0 / epoch, 1e-3], "adjoint_residuals": [1e-2, 1e-6 * epoch]}
    kind = {"kind": "nested", "level": level} if level else {"kind": "epoch"}
    return {**kind, "epoch": epoch, **losses, **norms, "work_units": 4.0, "seconds": {"forward": 1.0}, **changes}


def summary(**changes: Any) -> Record:
    accuracy = {"test_accuracy": 0.5, "test_accuracy_serial": 0.6}
    return {"kind": "summary", **accuracy, "forward_residuals": [9.0, 1e-3, 1e-6], "adjoint_residuals": [], **changes}


def write(folder: Path, *records: Record, **options: Any) -> Path:
    folder.mkdir()
    config = {"recipe": "peaks", "options": TrainOptions(**options).to_json()}
    (folder / "config.json").write_text(json.dumps(config))
    for each in records:
        append_record(folder / "metrics.jsonl", each)
    return folder


def labels(figure: Figure) -> list[list[str]]:
    """Those of every panel's lines."""
    return [axis.get_legend_handles_labels()[1] for axis in figure.axes]


def assert_readable(figure: Figure) -> None:
    """No tick in scientific notation with a factor, no fractional epoch; every legend outside of its axes."""
    figure.canvas.draw()
    for axis in figure.axes:
        for label in [*axis.get_yticklabels(), *axis.get_yticklabels(minor=True)]:
            assert "times" not in label.get_text()
        left, right = sorted(axis.get_xlim())
        assert all(float(tick).is_integer() for tick in axis.get_xticks() if left <= tick <= right)
        if (legend := axis.get_legend()) is not None:
            assert legend.get_window_extent().x0 >= axis.get_window_extent().x1 - 1


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_figures_are_readable(epochs: int):
    records = [*(record(i + 1) for i in range(epochs)), summary()]
    for draw in (curves, residuals, timing):
        assert_readable(draw(records, "a title"))


def test_the_title_says_what_was_run(tmp_path: Path):
    folder = write(tmp_path / "run", record(1), seed=7, coarsening=(8, 2), relaxation=("F", "FCF"), cycle="W")
    assert title_of(folder) == "peaks · MGRIT m = 8, 2, 3 levels, F, FCF, W-cycles 2/1 · seed 7"
    assert title_of(write(tmp_path / "serial", solver="serial")) == "peaks · serial · seed 0"
    assert title_of(tmp_path) == tmp_path.name


def test_nested_levels_have_their_own_epochs_and_residuals():
    """And the longer solve after training is of the network itself."""
    coarse = [record(1, 2, forward_residuals=[], adjoint_residuals=[]), record(1, 1), record(2, 1)]
    records = [*coarse, record(1), record(2), summary()]
    assert [len(line.get_xdata()) for line in curves(records, "").axes[0].lines[:2]] == [5, 5]
    figure = residuals(records, "")
    assert [axis.get_title() for axis in figure.axes] == [
        "forward solve, coarser network of level 1",
        "adjoint solve, coarser network of level 1",
        "forward solve",
        "adjoint solve",
    ]
    longer = "after training, one\ncycle more"
    assert labels(figure) == [
        ["epoch 1", "epoch 2"],
        ["epoch 1", "epoch 2"],
        ["epoch 1", "epoch 2", longer],
        ["epoch 1", "epoch 2"],
    ]
    assert len(timing(records, "").axes[0].patches) == 5


def test_a_residual_of_exactly_zero_is_seen_on_a_logarithmic_axis():
    figure = residuals([record(1, forward_residuals=[1.0, 1e-3, 0.0], adjoint_residuals=[0.0])], "")
    forward, adjoint = figure.axes
    assert forward.get_yscale() == "log" and "0, exactly" in labels(figure)[0]
    assert list(forward.lines[0].get_ydata()) == [1.0, 1e-3, 1e-4]
    assert adjoint.lines and "0, exactly" in labels(figure)[1]


def test_of_a_serial_run_there_is_no_residual_to_draw():
    records = [record(1, forward_residuals=[], adjoint_residuals=[]), summary(forward_residuals=[])]
    assert not any(axis.lines for axis in residuals(records, "").axes)


def test_several_runs_are_one_page_that_needs_no_other_file(tmp_path: Path):
    one = write(tmp_path / "one <b>", record(1), record(2), summary())
    other = write(tmp_path / "other", record(1, 1), record(1), solver="serial", seed=3)
    page = draw_runs([one, other], tmp_path / "runs.html").read_text(encoding="utf-8")
    assert "one &lt;b&gt;" in page and "one <b>" not in page
    assert "peaks · serial · seed 3" in page and "60.00%" in page and "not finished" in page
    assert page.count("src=") == page.count('src="data:image/png;base64,') == 1 + 2 * 3
    assert "http" not in page
    assert_readable(compare({one: [record(1), record(2)], other: [record(1)]}))


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("runs.foo", r"ends in '\.foo'; expected one of .*png"),
        ("runs", "ends in 'nothing'"),
        ("no/runs.png", "cannot be written"),
    ],
)
def test_an_output_that_cannot_be(tmp_path: Path, output: str, says: str):
    with pytest.raises(InputError, match=says):
        draw_runs([write(tmp_path / "run", record(1))], tmp_path / output)


def test_what_is_no_run(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder, says in (
        (tmp_path, "does not exist; expected the folder of a run"),
        (tmp_path / "file", "cannot be read"),
    ):
        with pytest.raises(InputError, match=says):
            draw_plots(folder)
    with pytest.raises(InputError, match="holds no finished epoch"):
        draw_plots(write(tmp_path / "begun", summary()))
    with pytest.raises(InputError, match=r"cannot be read .*lpgpu verify"):
        read_verification(tmp_path)


def test_the_space_time_picture(tmp_path: Path):
    """A row for each number of cycles; exact states are white, those that are not finite cyan."""
    cycles = [{"iterations": i, "layers": {"deep": [0.0, 10.0**-i, None]}} for i in range(3)]
    (tmp_path / VERIFICATION).write_text(json.dumps({"cycles": cycles}))
    figure = space_time(read_verification(tmp_path), "a title")
    image = figure.axes[0].images[0]
    shown = image.cmap(image.norm(image.get_array()))
    assert shown.shape == (3, 3, 4)
    assert (shown[:, 0] == (1, 1, 1, 1)).all() and (shown[:, 2] == (0, 1, 1, 1)).all()
    assert shown[0, 1].sum() < shown[2, 1].sum(), "the larger the error, the darker"
