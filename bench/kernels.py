"""Every fused kernel over the shapes that matter: time, percent of the machine's limit, and what else could be run.

    python bench/kernels.py [--only gru-sweep,fas] [--quick] [--minutes 4] [--json FILE]
    python bench/kernels.py --estimates H100     what they should take there; needs no GPU, measures nothing

Times are medians (20th and 80th percentile) of CUDA-graph replays, with inputs rotated past the cache. A case whose
result differs from the reference's in fp64 is refused: it gets no time. "PyTorch" is the same arithmetic by PyTorch's
operators, in a CUDA graph too. The limit is the roofline's, the estimate that of bench/machine.py.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from explain import explained
from gpu_timing import same_precision
from kernel_case import Case
from kernel_cases import cases
from kernel_rows import Row, measure
from machine import MACHINES, Machine, estimate, this_machine
from resources import resources_of

RESULTS = Path(__file__).parent / "results"


def line(row: Row) -> str:
    """A row of the table: microseconds."""
    if row.times is None:
        return f"| {row.name} | refused: relative error {row.error:.1e} | | | | |"
    rivals = ", ".join(f"{name} {seconds / row.times.p50:.1f}×" for name, seconds in row.rivals.items())
    spread = f"{1e6 * row.times.p50:.1f} ({1e6 * row.times.p20:.1f}–{1e6 * row.times.p80:.1f})"
    return (
        f"| {row.name} | {spread} | {1e6 * row.estimate:.1f} | {1e6 * row.limit:.1f} ({row.bound}) "
        f"| {row.percent:.0f} % | {rivals} |"
    )


HEADER = (
    "| case | µs p50 (p20–p80) | estimate µs | limit µs | of limit | time of rivals / ours |\n|---|---|---|---|---|---|"
)


def about(machine: Machine) -> dict[str, str]:
    """What the figures were taken on."""
    import triton

    return {
        "gpu": torch.cuda.get_device_name(),
        "clocks": _output("nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,clocks.max.sm", "--format=csv,noheader"),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda or "",
        "commit": _output("git", "rev-parse", "HEAD"),
        "figures of": machine.name,
    }


def print_estimates(machine: Machine, chosen: list[Case]) -> None:
    """What the cases should take on a machine that need not be here."""
    print(f"\nEstimates for one {machine.name}; nothing here was measured.\n")
    print("| case | programs per SM | waves | estimate µs | limit µs |\n|---|---|---|---|---|")
    for case in chosen:
        e = estimate(case.work, machine, **resources_of(case, machine.arch))
        print(f"| {case.name} | {e.occupancy} | {e.waves} | {1e6 * e.seconds:.1f} | {1e6 * e.limit:.1f} ({e.bound}) |")


def rows(chosen: list[Case], machine: Machine, minutes: float) -> Iterator[Row]:
    """Measured rows, one after the other, until the time is up."""
    began = time.monotonic()
    for i, case in enumerate(chosen):
        if time.monotonic() - began > 60 * minutes:
            print(
                f"\n{len(chosen) - i} cases left out after {minutes:g} minutes: {', '.join(c.name for c in chosen[i:])}"
            )
            return
        yield measure(case, machine)
        torch.cuda.empty_cache()


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> None:
    """Measure, or estimate, the chosen cases."""
    parser = argparse.ArgumentParser(description="microbenchmarks of the fused kernels")
    parser.add_argument("--only", help="operations, separated by commas (default: all)")
    parser.add_argument("--quick", action="store_true", help="few shapes")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop after so many (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the rows (default: bench/results/kernels-GPU.json)")
    parser.add_argument(
        "--estimates", choices=[m.name for m in MACHINES], help="print estimates for this GPU, and stop"
    )
    parser.add_argument("--explain", action="store_true", help="what bounds each, by bench/explain.py, below it")
    arguments = parser.parse_args()
    chosen = cases("cpu" if arguments.estimates else "cuda", quick=arguments.quick)
    operations = {case.operation for case in chosen}
    if arguments.only:
        if unknown := set(arguments.only.split(",")) - operations:
            parser.error(f"unknown operations {sorted(unknown)}; there are {', '.join(sorted(operations))}")
        chosen = [case for case in chosen if case.operation in arguments.only.split(",")]
    if arguments.estimates:
        return print_estimates(next(m for m in MACHINES if m.name == arguments.estimates), chosen)
    if not torch.cuda.is_available():
        sys.exit("bench/kernels.py: PyTorch finds no CUDA GPU here; --estimates H100 says what to expect of one")
    machine = this_machine()
    same_precision()
    print(f"\n{json.dumps(about(machine))}\n\n{HEADER}")
    measured, of_name = [], {case.name: case for case in chosen}
    for row in rows(chosen, machine, arguments.minutes):
        measured.append(row)
        print(line(row), flush=True)
        if arguments.explain:
            print(f"|   model: | {explained(of_name[row.name], machine).cells()} | |", flush=True)
    path = arguments.json or RESULTS / f"kernels-{machine.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about(machine), "rows": [asdict(row) for row in measured]}, indent=1) + "\n")
    if wrong := [row.name for row in measured if row.times is None]:
        sys.exit(f"{len(wrong)} cases computed something else than the reference: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
