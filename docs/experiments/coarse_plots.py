"""Pareto fronts of the study of coarse operators: python docs/experiments/coarse_plots.py OUT.jsonl FIGURE.png"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

OPERATORS = {
    ("rediscretised", 1, "none"): ("rediscretised", "tab:gray"),
    ("rediscretised", 1, "diagonal"): ("rediscretised with Δ", "tab:brown"),
    ("picard", 1, "auto"): ("Picard 1", "tab:blue"),
    ("picard", 2, "auto"): ("Picard 2", "tab:cyan"),
    ("picard", 3, "auto"): ("Picard 3", "tab:green"),
    ("linear", 1, "auto"): ("linear", "tab:red"),
}
KEYS = {"depth": "depth / serial depth", "evaluations": "evaluations / serial ones"}


def front(rows: list[dict], key: str) -> tuple[list[float], list[float]]:
    """Cost relative to exact propagation, and error, of the rows that no cheaper one beats."""
    costs, errors = [], []
    for row in sorted(rows, key=lambda row: (row[key], row["gradient"])):
        if row["gradient"] < 0.8 * (errors[-1] if errors else 10):
            costs.append(row[key] / row["serial_depth"])
            errors.append(max(row["gradient"], 1e-12))
    return costs, errors


def draw(axis, rows: list[dict], key: str) -> None:
    """One network's fronts: trained weights solid, those at the start dashed."""
    for setting, (label, color) in OPERATORS.items():
        for weights, style in (("trained", "o-"), ("start", "x:")):
            chosen = [
                row
                for row in rows
                if (row["operator"], row["order"], row["delta"]) == setting and row["weights"] == weights
            ]
            if chosen:
                axis.plot(
                    *front(chosen, key),
                    style,
                    color=color,
                    markersize=3,
                    linewidth=1,
                    alpha=1 if weights == "trained" else 0.5,
                    label=label if weights == "trained" else None,
                )
    default = [row for row in rows if row["operator"] == "auto" and row["weights"] == "trained"]
    for row in default:
        axis.plot(row[key] / row["serial_depth"], row["gradient"], "k*", markersize=8, label="MGRIT()")
    axis.axhline(1e-2, color="black", linewidth=0.5)
    axis.set(xscale="log", yscale="log", ylim=(1e-9, 10))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    rows = [row for row in rows if row["aim"] is None]  # else it is an answer of `tune`
    trained = {row["case"] for row in rows if row["weights"] == "trained"}
    cases = [case for case in dict.fromkeys(row["case"] for row in rows) if case in trained]
    figure, axes = plt.subplots(2, len(cases), figsize=(2.4 * len(cases), 6.4), sharey=True)
    for column, case in enumerate(cases):
        for line, (key, label) in enumerate(KEYS.items()):
            axis = axes[line][column]
            draw(axis, [row for row in rows if row["case"] == case], key)
            axis.set_xlabel(label, fontsize=8)
            if line == 0:
                axis.set_title(case, fontsize=9)
    for row in axes:
        row[0].set_ylabel("relative error of the gradient", fontsize=8)
    shown = [zip(*axis.get_legend_handles_labels(), strict=True) for axis in axes.flat]
    handles = {label: handle for each in shown for handle, label in each}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        ncols=7 if len(cases) > 4 else 4,
        fontsize=8,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(sys.argv[2], dpi=110)


if __name__ == "__main__":
    main()
