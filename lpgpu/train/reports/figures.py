"""Figures as all reports draw them: what was run in the title, legends beside the axes, ticks that can be read."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpgpu.train.setup.errors import InputError
from lpgpu.train.setup.metric import Metric
from lpgpu.train.setup.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONFIG = "config.json"


def new_figure(columns: int, rows: int = 1, title: str = "") -> tuple["Figure", list["Axes"]]:
    """A figure and its panels, row by row. Without pyplot: no window system is asked for, no global state is left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second to import: only who plots pays
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * columns, 3.6 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize="medium")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        whole_numbers(axis)  # epochs, cycles
    return figure, axes


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure to `path`, in the format that its name ends in. Raises `InputError` where that cannot be."""
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in known:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}; expected one of {', '.join(sorted(known))}")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def title_of(folder: Path) -> str:
    """Recipe, solver and seed of the run in `folder`, in a line; its name where it has no config that says so."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        options = config["options"]
        return f"{config['recipe']} · {solver_words(options)} · seed {options['seed']}"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def solver_words(options: dict[str, Any]) -> str:
    """The solver of the options of a run, as JSON has them, in a few words."""
    if options["solver"] == "serial":
        return "serial"
    m, relaxation = (_listed(options[name]) for name in ("coarsening", "relaxation"))
    cycles = f"{options['iterations']}/{options['adjoint_iterations']}"
    control = "" if options["control"] in ("fixed", "probe") else f", {options['control']}"
    levels = counted(options["levels"], "level")
    return f"MGRIT m = {m}, {levels}, {relaxation}, {options['cycle']}-cycles {cycles}{control}"


def whole_numbers(axis: "Axes") -> None:
    """Ticks at whole numbers only, from left to right."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def logarithmic(axis: "Axes", values: Iterable[float | None]) -> None:
    """A logarithmic y-axis where the values need one: over a factor of 20, and above 0; ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    there = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not there or max(there) < 20 * min(there):
        return
    axis.set_yscale("log")
    few = max(there) < 1e3 * min(there)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few and min(there) > 0.02 else (1,), numticks=12))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axis.yaxis.set_minor_formatter(NullFormatter())


def baseline(axis: "Axes", metric: Metric) -> None:
    """A dotted line where an answer lies that ignores the input, if the metric knows of one."""
    if metric.baseline is not None:
        label = f"{metric.baseline_name}: {metric.text(metric.baseline)}"
        axis.axhline(metric.baseline, color="grey", ls=":", lw=1.5, label=label)


def legend_beside(axis: "Axes") -> None:
    """The legend to the right of the axes, where it hides nothing."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small")


def shades(count: int) -> list[tuple[float, ...]]:
    """So many colours in an order that is seen: dark to bright."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(1, count - 1)) for i in range(count)]


def _tick(value: float) -> str:
    """1, 0.2, 500; beyond that powers of ten."""
    if 0.01 <= value < 10_000:
        return f"{value:g}"
    return rf"$10^{{{round(math.log10(value))}}}$"


def _listed(value: Sequence[Any] | Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
