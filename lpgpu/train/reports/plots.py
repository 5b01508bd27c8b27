"""Plots of a run, finished or not, from its metrics alone."""

import math
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from lpgpu.train.runs.metrics import Record, epoch_records, read_records, total_seconds
from lpgpu.train.setup.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = "metrics.jsonl"
PARTS = ("disk", "data", "encoder", "forward", "backward", "communication", "optimizer", "evaluation")


def draw_plots(folder: Path) -> list[Path]:
    """Draw `curves.png`, `residuals.png` and `timing.png` into the folder of a run and return their paths.

    >>> from dataclasses import replace
    >>> from lpgpu.train import Run, find_recipe, train
    >>> recipe = find_recipe("peaks")
    >>> options = replace(recipe.defaults, epochs=1, layers=4, levels=2, device="cpu", run_dir=Path("peaks"))
    >>> summary = train(Run.create(recipe, options))
    >>> [path.name for path in draw_plots(Path("peaks"))]
    ['curves.png', 'residuals.png', 'timing.png']

    Raises `InputError` when it is not the folder of a run, or one without a finished epoch.
    """
    records = read_records(folder / METRICS)
    epochs = epoch_records(records)
    if not epochs:
        raise InputError(f"{folder / METRICS} holds no finished epoch: there is nothing to plot yet")
    drawn = []
    for name, draw, panels in (("curves", _curves, 2), ("residuals", _residuals, 2), ("timing", _timing, 1)):
        figure, axes = new_figure(panels)
        draw(axes, records)
        drawn.append(folder / f"{name}.png")
        figure.savefig(drawn[-1], dpi=120)
    return drawn


def new_figure(panels: int):
    """A figure with panels side by side. Without pyplot: no window system is asked for, no global state is left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second to import: only who plots pays
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)  # epochs, cycles
    return figure, axes


def _curves(axes: list["Axes"], records: list[Record]) -> None:
    epochs = epoch_records(records)
    numbers = [record["epoch"] for record in epochs]
    for axis, quantity in zip(axes, ("loss", "accuracy"), strict=True):
        for part in ("train", "test"):
            axis.plot(numbers, [record[f"{part}_{quantity}"] for record in epochs], label=part, marker=".")
        axis.set(xlabel="epoch", ylabel=quantity)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")


def _residuals(axes: list["Axes"], records: list[Record]) -> None:
    """Residual before each cycle, one line per epoch from pale to dark; dashed, the longer solve after the last one."""
    from matplotlib.ticker import MaxNLocator

    for axis, solve in zip(axes, ("forward", "adjoint"), strict=True):
        for record in records:
            norms = [math.nan if norm is None else norm for norm in record[f"{solve}_residuals"]]
            if record["kind"] == "epoch":
                shade = 0.2 + 0.8 * record["epoch"] / len(records)
                axis.plot(norms, color="tab:blue", alpha=min(shade, 1.0), marker=".")
            else:
                axis.plot(norms, "k--", marker="o", label="one cycle more, after training")
                axis.legend()
        axis.set(title=f"{solve} solve", xlabel="cycles done", ylabel="residual at the C-points", yscale="log")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)


def _timing(axes: list["Axes"], records: list[Record]) -> None:
    """Seconds of each epoch, part upon part."""
    epochs = epoch_records(records)
    _stacked(axes[0], [str(record["epoch"]) for record in epochs], [record["seconds"] for record in epochs])
    axes[0].set(xlabel="epoch", ylabel="seconds")


def _stacked(axis: "Axes", names: list[str], seconds: list[dict[str, float]]) -> None:
    """A bar for each of `names`, its parts in the order in which a training step takes them."""
    others = dict.fromkeys(part for each in seconds for part in each if part not in PARTS)
    bottom = [0.0] * len(names)
    for part in (*PARTS, *others):
        heights = [each.get(part, 0.0) for each in seconds]
        if any(heights):
            axis.bar(range(len(names)), heights, bottom=bottom, label=part, width=0.8)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    shown = range(0, len(names), max(1, len(names) // 10))
    axis.set_xticks(list(shown), [names[i] for i in shown])
    axis.legend(fontsize="small")


def draw_runs(folders: list[Path], path: Path) -> Path:
    """Draw several runs side by side into a new file `path`: accuracy by epoch and by work, residuals, timings.

    >>> draw_runs([Path("peaks")], Path("runs.png")).name  # of the run above
    'runs.png'

    Raises `InputError` when one is not the folder of a run with a finished epoch, or `path` exists.
    """
    if path.exists():
        raise InputError(f"{path} exists, and was not touched; choose another --output")
    runs = {}
    for folder in folders:
        records = read_records(folder / METRICS)
        if not epoch_records(records):
            raise InputError(f"{folder / METRICS} holds no finished epoch: there is nothing to plot yet")
        runs[folder.name if folder.name not in runs else str(folder)] = records
    figure, (by_epoch, by_work, residuals, timing) = new_figure(4)
    for name, records in runs.items():
        epochs = epoch_records(records)
        accuracy = [record["test_accuracy"] for record in epochs]
        numbers = [record["epoch"] for record in epochs]
        before = sum(record.get("work_units", 0.0) for record in records if record["kind"] == "nested")
        work = list(accumulate((record.get("work_units", 0.0) for record in epochs), initial=before))[1:]
        by_epoch.plot(numbers, accuracy, marker=".", label=name)
        by_work.plot(work, accuracy, marker=".", label=name)
        last = [(record["forward_residuals"] or [None])[-1] for record in epochs]
        residuals.plot(numbers, [math.nan if norm is None else norm for norm in last], marker=".", label=name)
    _stacked(timing, list(runs), [total_seconds(records) for records in runs.values()])
    by_epoch.set(xlabel="epoch", ylabel="test accuracy")
    by_work.set(xlabel="work: gradients of the whole network", ylabel="test accuracy")
    residuals.set(xlabel="epoch", ylabel="forward residual before the last cycle", yscale="log")
    timing.set(ylabel="seconds, all epochs")
    by_epoch.legend(fontsize="small")
    for axis in (by_epoch, by_work, residuals):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    return path
