"""The figure of `bench/model.py`."""

from pathlib import Path

import numpy as np


def draw(checked: list[dict], projections: list[dict], path: Path) -> None:
    """Three panels: measured against modelled on this machine; strong and weak scaling as modelled."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, *scaling) = plt.subplots(1, 3, figsize=(15, 5.2), layout="constrained")
    labels = [f"{row['case']}\n{row['ranks']} rank{'s' * (row['ranks'] > 1)}" for row in checked]
    places = np.arange(len(checked))
    left.bar(places - 0.2, [row["busy_measured"] for row in checked], 0.4, label="measured")
    left.bar(places + 0.2, [row["busy_modelled"] for row in checked], 0.4, label="modelled")
    left.set(title="CPU: processor seconds of the fullest rank", yscale="log", xticks=places)
    left.set_xticklabels(labels, fontsize=6, rotation=90)
    left.legend()
    for axes, kind in zip(scaling, ("strong", "weak"), strict=True):
        for name, color in zip(
            dict.fromkeys(row["work"] for row in projections), ("tab:blue", "tab:orange"), strict=True
        ):
            of_work = [row for row in projections if (row["work"], row["kind"]) == (name, kind)]
            for series, style in zip(dict.fromkeys(row["series"] for row in of_work), ("-", "--", ":"), strict=True):
                mine = [row for row in of_work if row["series"] == series]
                speedups = [row["serial_seconds"] / row["seconds"] for row in mine]
                axes.plot([r["ranks"] for r in mine], speedups, style, color=color, label=f"{name}, {series}")
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.text(1024, 0.95, "below: serial wins", fontsize=8, color="grey", ha="right", va="top")
        axes.set(title=f"GPUs, {kind} scaling: MODELLED from estimates", xscale="log", yscale="log")
        axes.set(xlabel="GPUs", ylabel="times as fast as serial on one")
    figure.legend(
        *scaling[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=8, frameon=False
    )
    figure.savefig(path, dpi=150)
