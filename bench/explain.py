"""What bounds each fused kernel: a model of one pass of its innermost loop, beside what was measured.

    python bench/explain.py [--machine H100] [--measured kernels.jsonl] [--cuda cuda.jsonl] [--only gru-sweep,fas]

Of the programs that share a multiprocessor, in cycles of one pass (a step of a resident sweep, a block of the summed
dimension of a tiled product), from the machine code of the compiled kernel:

    issue     instructions of all warps / 4 schedulers
    matrix    flops / peak rate
    shared    bytes of shared memory / 128 a cycle
    special   exponentials and reciprocals / 16 a cycle
    memory    bytes past the chip / bandwidth
    latency   a program's own chain: barriers 30, a matrix instruction 33 for each 16 units summed, two gates 120 each

All of them side by side take the longest one's time, one after the other their sum; a launch in a CUDA graph adds
about 3 µs (measured on an H100). Resident sweeps measured there took about the sum. What takes much longer is bound by
what is not in the model, such as loads that miss the caches. Kernels in CUDA C++ have a model and a table of their own
(bench/explain_cuda.py).
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import explain_cuda
from cuda_kernels import cases as cuda_cases
from instructions import of_configuration
from kernel_case import Case
from kernel_cases import cases
from machine import MACHINES, Machine, occupancy
from resources import key_of, resources_of

LAUNCH = 3e-6
_BARRIER, _MATRIX_CHAIN, _GATES = 30, 33, 240


@dataclass(frozen=True)
class Cycles:
    """Of one pass, by what takes them."""

    issue: float
    matrix: float
    shared: float
    special: float
    memory: float
    latency: float

    @property
    def longest(self) -> str:
        """What takes the most."""
        return max(asdict(self), key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class Explanation:
    """Seconds of a call: all side by side, and one after the other; cycles of a pass, and how many passes there are."""

    least: float
    most: float
    passes: int
    cycles: Cycles

    def cells(self) -> str:
        """Of the table: microseconds, what takes the most, the cycles of a pass."""
        cycles = ", ".join(f"{name} {value:.0f}" for name, value in asdict(self.cycles).items() if value >= 1)
        between = f"{1e6 * self.least:.1f} – {1e6 * self.most:.1f}"
        return f"{between} | {self.cycles.longest} | {self.passes} × ({cycles})"


def explained(case: Case, machine: Machine) -> Explanation:
    """The model of a case on a machine; compiles its kernel, which needs no GPU."""
    work, key = case.work, key_of(case, machine.arch)
    mix, taken = of_configuration(key), resources_of(case, machine.arch)
    fits = occupancy(taken["registers"], taken["shared"], taken["num_warps"], machine)
    waves = math.ceil(work.programs / (machine.sms * fits))
    together = min(fits, math.ceil(work.programs / machine.sms))
    busy = min(machine.sms, work.programs)
    passes = work.steps if work.steps > 1 else _summed_blocks(case, key)
    flops, bytes = (total / (work.programs * work.launches * passes) for total in (work.flops, work.bytes))
    warps = together * taken["num_warps"]
    cycles = Cycles(
        issue=mix.issued * warps / 4,
        matrix=together * flops / machine.flops[work.unit],
        shared=mix.shared_cycles * warps,
        special=mix.special * warps * 2,
        memory=together * busy * bytes / machine.bandwidth * machine.clock,
        latency=_latency(case, mix.barriers, mix.matrix),
    )
    each = asdict(cycles).values()
    least, most = (
        work.launches * (waves * passes * of_pass / machine.clock + LAUNCH) for of_pass in (max(each), sum(each))
    )
    return Explanation(least, most, work.launches * waves * passes, cycles)


def _latency(case: Case, barriers: int, matrix: int) -> float:
    """Of a program's own chain of dependent instructions, in one pass."""
    summed = case.width if case.work.steps > 1 else 16
    gates = _GATES if case.operation in ("gru-sweep", "gru-serial") and case.work.steps > 1 else 0
    return barriers * _BARRIER + (math.ceil(summed / 16) * _MATRIX_CHAIN if matrix else 0) + gates


def _summed_blocks(case: Case, key: str) -> int:
    """Into how many blocks a tiled kernel cuts the dimension that it sums over."""
    from tests.kernels.compiled import configurations

    constants = configurations()[key][0].constexprs
    depth = constants.get("DEPTH") or constants.get("SUMMED")
    taps = 9 if case.kernel == "conv_step_kernel" else 1
    return math.ceil(taps * case.width / depth) if depth else 1


def main() -> None:
    """A row for each case."""
    parser = argparse.ArgumentParser(description="what bounds each fused kernel")
    parser.add_argument("--machine", choices=[m.name for m in MACHINES], default="H100", help="[%(default)s]")
    parser.add_argument("--measured", type=Path, help="kernels.jsonl of `make gpu`, to print beside")
    parser.add_argument("--cuda", type=Path, help="cuda.jsonl of `make gpu`, to print beside kernels in CUDA C++")
    parser.add_argument("--only", help="operations, separated by commas [all]")
    parser.add_argument("--quick", action="store_true", help="few shapes")
    arguments = parser.parse_args()
    chosen, in_cuda = cases("cpu", quick=arguments.quick), cuda_cases(quick=arguments.quick)
    known = {case.operation for case in (*chosen, *in_cuda)}
    wanted = set(arguments.only.split(",")) if arguments.only else known
    if unknown := wanted - known:
        parser.error(f"unknown operations {sorted(unknown)}")
    machine = next(m for m in MACHINES if m.name == arguments.machine)
    measured = {row["name"]: row["times"]["p50"] for row in _rows(arguments.measured) if row.get("times")}
    files = ", ".join(str(file) for file in (arguments.measured, arguments.cuda) if file) or "nothing"
    print(f"\nA model of one {machine.name}; measured: {files}")
    _heading("side by side – one after the other µs")
    for case in (each for each in chosen if each.operation in wanted):
        _row(case.name, measured.get(case.name), explained(case, machine).cells())
    in_cuda = [case for case in in_cuda if case.operation in wanted]
    soonest: dict[str, float] = {}
    for row in _rows(arguments.cuda):
        if "seconds" in row:
            soonest[row["case"]] = min(row["seconds"]["p50"], soonest.get(row["case"], math.inf))
    if in_cuda:
        print("\nIn CUDA C++; of a march the best plan")
        _heading("µs")
    for case in in_cuda:
        if of_case := explain_cuda.explained(case, machine):
            _row(case.name, soonest.get(case.name), of_case.cells())


def _rows(file: Path | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file else []


def _heading(model: str) -> None:
    print(f"\n| case | measured µs | {model} | most cycles | cycles of a pass |\n" + "|---" * 5 + "|")


def _row(name: str, seconds: float | None, cells: str) -> None:
    print(f"| {name} | {'' if seconds is None else f'{1e6 * seconds:.1f}'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
