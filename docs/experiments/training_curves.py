"""Training loss, test accuracy (or the recipe's own metric) and the error of the gradient, serial against MGRIT.

Every seed is a line.

python docs/experiments/training_curves.py OUT.png RUN [RUN ...]      runs of one recipe or several; a row for each
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt

from lpgpu.train import Metric
from lpgpu.train.reports.figures import logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"serial": "#2868a8", "mgrit": "#d97706"}
LINES = {"serial": "-", "mgrit": "--"}
NAMES = {"serial": "serial", "mgrit": "MGRIT"}


def title_of(recipe: str, of_runs: list[dict]) -> str:
    """Recipe and seeds, and what MGRIT is."""
    seeds = sorted({options["seed"] for options in of_runs})
    o = next(options for options in of_runs if options["solver"] == "mgrit")
    cycles = f"{o['relaxation']}, {o['iterations']}/{o['adjoint_iterations']}"
    return f"{recipe}, seeds {', '.join(map(str, seeds))}\nMGRIT: {o['levels']} levels, m = {o['coarsening']}, {cycles}"


def epochs_of(run: Path) -> list[dict]:
    """What a run has noted of its epochs."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == "epoch"]


def errors_of(epochs: list[dict]) -> tuple[list[int], list[float]]:
    """The steps that were probed, and the gradient's relative error there."""
    probes = [probe for epoch in epochs for probe in epoch["decisions"] if "gradient_error" in probe]
    return [probe["step"] for probe in probes], [probe["gradient_error"] for probe in probes]


def draw_run(axes: Sequence["Axes"], options: dict, epochs: list[dict]) -> None:
    """The lines of a run."""
    solver = options["solver"]
    style = {"color": COLOURS[solver], "linestyle": LINES[solver], "marker": ".", "zorder": 2 + (solver == "mgrit")}
    loss, reached, error = axes
    metric = Metric.from_record(epochs[0])
    scale = 100 if metric.percent else 1
    numbers = [epoch["epoch"] for epoch in epochs]
    loss.plot(numbers, [epoch["train_loss"] for epoch in epochs], **style)
    reached.plot(numbers, [scale * epoch[f"test_{metric.key}"] for epoch in epochs], **style)
    reached.set_ylabel(f"test {metric.name}, %" if metric.percent else f"test {metric.axis}")
    reached.set_yscale("linear" if metric.percent else "log")
    error.plot(*errors_of(epochs), **style)


def main(out: str, *runs: str) -> None:
    by_recipe = defaultdict(list)
    for run in map(Path, runs):
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        by_recipe[config["recipe"]].append((config["options"], epochs_of(run)))
    figure, rows = plt.subplots(len(by_recipe), 3, figsize=(12, 3 * len(by_recipe)), squeeze=False)
    for axes, (recipe, entries) in zip(rows, by_recipe.items(), strict=True):
        for options, epochs in entries:
            draw_run(axes, options, epochs)
        axes[0].set_title(title_of(recipe, [options for options, _ in entries]), loc="left", fontsize=10)
        axes[0].set_ylabel("training loss")
        axes[2].set_ylabel("error of MGRIT's gradient")
        for axis, unit in zip(axes, ("epoch", "epoch", "step"), strict=True):
            axis.set_xlabel(unit)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.spines[["top", "right"]].set_visible(False)
        logarithmic(axes[2], [error for _, epochs in entries for error in errors_of(epochs)[1]])
    lines = [plt.Line2D([], [], color=COLOURS[each], linestyle=LINES[each]) for each in NAMES]
    figure.legend(lines, NAMES.values(), loc="outside right upper", frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
