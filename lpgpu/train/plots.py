"""Plots of a run, finished or not, from its metrics alone."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lpgpu.train.errors import InputError
from lpgpu.train.metrics import Record, epoch_records, read_records, total_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS = "metrics.jsonl"


def draw_plots(folder: Path) -> list[Path]:
    """Draw `curves.png`, `residuals.png` and `timing.png` into the folder of a run and return their paths.

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
    return figure, figure.subplots(1, panels, squeeze=False)[0]


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
    seconds = total_seconds(records)
    bars = axes[0].barh(list(seconds), list(seconds.values()))
    axes[0].bar_label(bars, fmt="%.1f s", padding=3)
    axes[0].invert_yaxis()
    axes[0].margins(x=0.15)
    axes[0].set(xlabel="seconds, all epochs")
