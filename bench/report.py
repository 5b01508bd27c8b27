"""The results of `bench/kernels.py` as a table and a roofline plot.

python bench/report.py bench/results/kernels-H100.json [--plot roofline.png]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from machine import MACHINES, Machine

Rows = list[dict[str, Any]]


def table(rows: Rows) -> str:
    """Microseconds, percent of the limit, and how many times longer each rival takes."""
    lines = [
        "| case | µs p50 (p20–p80) | of limit | of estimate | rivals / ours | error |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = row["times"]
        if times is None:
            lines.append(f"| {row['name']} | refused | | | | {row['error']:.1e} |")
            continue
        p20, p50, p80 = (1e6 * times[key] for key in ("p20", "p50", "p80"))
        rivals = ", ".join(f"{name} {seconds / times['p50']:.1f}×" for name, seconds in row["rivals"].items())
        lines.append(
            f"| {row['name']} | {p50:.1f} ({p20:.1f}–{p80:.1f}) | {100 * row['limit'] / times['p50']:.0f} % "
            f"| {times['p50'] / row['estimate']:.1f}× | {rivals} | {row['error']:.1e} |"
        )
    return "\n".join(lines)


def plot(rows: Rows, machine: Machine, title: str, path: Path) -> None:
    """FLOP/s over FLOP/byte of every timed case, under the machine's roof."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, axes = plt.subplots(figsize=(8, 5.5))
    intensity = np.logspace(-1, 4, 200)
    for unit in ("bf16", "tf32", "tf32x3"):
        roof = np.minimum(machine.rate(unit) * machine.sms, intensity * machine.bandwidth)
        axes.plot(intensity, roof, color="0.5", linewidth=1)
        axes.annotate(unit, (intensity[-1], roof[-1]), fontsize=8, ha="right", va="bottom", color="0.3")
    timed = [row for row in rows if row["times"] and row["flops"]]
    for operation in sorted({row["operation"] for row in timed}):
        of = [row for row in timed if row["operation"] == operation]
        x, y = [r["flops"] / r["bytes"] for r in of], [r["flops"] / r["times"]["p50"] for r in of]
        axes.plot(x, y, "o", markersize=4, label=operation)
    axes.set(xscale="log", yscale="log", xlabel="FLOP / byte", ylabel="FLOP / s", title=title)
    axes.grid(True, which="both", linewidth=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table; draw the plot."""
    parser = argparse.ArgumentParser(description="table and roofline plot of measured kernels")
    parser.add_argument("results", type=Path, help="JSON that bench/kernels.py wrote")
    parser.add_argument("--plot", type=Path, help="where to draw (default: beside the results)")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    about, rows = results["about"], results["rows"]
    title = f"{about['gpu']}, torch {about['torch']}, triton {about['triton']}, {about['commit'][:10]}"
    machine = next(machine for machine in MACHINES if machine.name == about["figures of"])
    print(f"{title}\n\n{table(rows)}")
    path = arguments.plot or arguments.results.with_suffix(".png")
    plot(rows, machine, title, path)
    print(f"\nroofline: {path}")


if __name__ == "__main__":
    main()
