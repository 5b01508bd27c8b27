"""Tables of what `make gpu` measured, in Markdown: `python bench/gpu_report.py DIR`.

Times are medians in ms. "as called" is what a user's call takes; "in a graph" is the whole step in one CUDA graph. The
factor is the faster of the baseline's two times over the time as called.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def rows(folder: Path, stage: str) -> list[Row]:
    """What a stage wrote, without the rows that a later one completes."""
    path = folder / f"{stage}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if not row.get("partial")]


def milliseconds(times: Row | None, how: str) -> str:
    """A median, or a dash where there is none."""
    entry = (times or {}).get(how)
    return f"{1e3 * entry['p50']:.2f}" if entry else "–"


def best(times: Row) -> float:
    """The fastest way that was timed."""
    return min(times[how]["p50"] for how in ("eager", "graph") if times.get(how))


def short(solver: str) -> str:
    """The options of a solver that differ from row to row."""
    if not solver.startswith("MGRIT"):
        return solver
    options = dict(part.split("=", 1) for part in solver[6:-1].split(", ") if "=" in part)
    cycles = f"{options['iterations']}/{options['adjoint_iterations']}"
    operator = options.get("coarse_operator", "'auto'").strip("'")
    m = options["coarsening"] if not options["coarsening"].startswith("(") else "(16, 8)"
    return f"{operator}, {options['levels']} levels, m = {m}, {options['relaxation'].strip(chr(39))}, {cycles}"


def of_solver(folder: Path) -> Iterator[str]:
    """One table: every network, its baseline, and the solvers."""
    yield "| network | solver | depth | gradient error | as called | in a graph | baseline / ours |"
    yield "|---|---|---|---|---|---|---|"
    baseline: dict[str, float] = {}
    for row in rows(folder, "solver"):
        if "solver" not in row or "eager" not in row:
            continue
        item, solver = row["item"].removeprefix("solver "), row["solver"]
        if solver.startswith("PyTorch"):
            baseline[item] = min(baseline.get(item, float("inf")), best(row)) if solver == "PyTorch" else baseline[item]
        factor = f"{baseline[item] / row['eager']['p50']:.1f}" if item in baseline and "depth" in row else ""
        error = f"{row['gradient_error']:.1e}" if "gradient_error" in row else ""
        times = f"{milliseconds(row, 'eager')} | {milliseconds(row, 'graph')}"
        yield f"| {item} | {short(solver)} | {row.get('depth', '')} | {error} | {times} | {factor} |"


def of_serial(folder: Path) -> Iterator[str]:
    """The serial GRU against cuDNN; where it marches in CUDA C++, by Triton's kernels too."""
    yield "| case | error | ours, as called | in a graph | by Triton | in a graph | cuDNN | in a graph | cuDNN / ours |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows(folder, "serial"):
        if "cuDNN" in row:
            ways = [row.get(who) for who in ("ours", "by Triton", "cuDNN")]
            times = " | ".join(milliseconds(way, how) for way in ways for how in ("eager", "graph"))
            factor = f"{row['cuDNN / ours']:.2f}"
            yield f"| {row['item'].removeprefix('serial ')} | {row['error']:.1e} | {times} | {factor} |"


def of_trained(folder: Path) -> Iterator[str]:
    """Solvers on weights that were trained on the device."""
    yield "| network | solver | gradient error | with the weights at the start | as called |"
    yield "|---|---|---|---|---|"
    for row in rows(folder, "trained"):
        if "eager" not in row:
            continue
        error, begun = (f"{row[key]:.1e}" if key in row else "" for key in ("gradient_error", "at the start"))
        times = {"eager": {"p50": row["eager"]}} if isinstance(row["eager"], float) else row
        item = f"{row['item'].removeprefix('trained ')} {row['dtype']}"
        yield f"| {item} | {short(row['solver'])} | {error} | {begun} | {milliseconds(times, 'eager')} |"


def of_cuda(folder: Path) -> Iterator[str]:
    """Kernels in CUDA C++, of a march the soonest plan, beside Triton's."""
    yield "| case | time (µs) | model (µs) | Triton (µs) | Triton / ours |"
    yield "|---|---|---|---|---|"
    soonest: dict[str, Row] = {}
    triton: dict[str, float] = {}
    for row in rows(folder, "cuda"):
        case = row.get("case", "")
        if (
            "seconds" in row
            and row["seconds"]["p50"] < soonest.get(case, row | {"seconds": {"p50": 1e9}})["seconds"]["p50"]
        ):
            soonest[case] = row
        if seconds := row.get("Triton") or row.get("rivals", {}).get("now"):
            triton[case] = seconds
    for case, row in soonest.items():
        took, theirs = row["seconds"]["p50"], triton.get(case)
        beside = f"{1e6 * theirs:.1f} | {theirs / took:.1f}" if theirs else "– | "
        model = f"{1e6 * row['model']:.1f}" if row.get("model") else "–"
        yield f"| {case} | {1e6 * took:.1f} | {model} | {beside} |"


def of_kernels(folder: Path) -> Iterator[str]:
    """Each fused kernel, and the percentage of the machine's limit that it reaches."""
    yield "| kernel | time (µs) | limit (µs) | percent of the limit | bound by |"
    yield "|---|---|---|---|---|"
    for row in rows(folder, "kernels"):
        if "percent" in row:
            times = f"{1e6 * row['times']['p50']:.1f} | {1e6 * row['limit']:.1f}"
            yield f"| {row['name']} | {times} | {row['percent']:.0f} | {row['bound']} |"


def main(folder: Path) -> None:
    """Print all tables."""
    about = json.loads((folder / "about.json").read_text())
    versions = ", ".join(f"{name} {about[name]}" for name in ("torch", "triton", "cuda", "cudnn") if name in about)
    print(f"{about.get('gpu', 'no GPU')}; {versions}; commit {about['commit'][:12]}.")
    tables = {
        "Trained weights": of_trained,
        "Solver": of_solver,
        "Serial GRU": of_serial,
        "CUDA C++": of_cuda,
        "Kernels": of_kernels,
    }
    for title, table in tables.items():
        print(f"\n## {title}\n", *table(folder), sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
