"""Forward + backward by MGRIT against serial PyTorch: time, gradient error, work and memory, measured in one run.

    python bench/solver.py [--cases dense-8x1024,conv-8x64] [--device cuda] [--repeats 5] [--json FILE]

Every solver of `families` runs once. Those within the target and at most half as deep as exact propagation that are
about as soon as the soonest are then timed, in turn with serial PyTorch, which is autograd through an nn.Sequential of
the same layers, or torch.nn.GRU. Times are medians, on a CPU of processor seconds of the one thread, in which other
work on the machine shows least; only their ratio means something, for the soonest to the median of all serial ones. The
gradient error is ‖g − g_exact‖₂ / ‖g_exact‖₂ over all parameters, with g_exact by exact propagation of the same
network. Memory is the peak of what the allocator handed out in the call. Weights are as drawn, not trained.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, LayerParallel, Serial, SolveResult
from lpgpu.nn import ConvBlock, DenseBlock
from lpgpu.nn.tune import shown

TARGET = 1e-2  # the gradient error within which the soonest setting is looked for
NEAR, MOST = 1.6, 8  # what took at most so many times as long as the soonest is timed again, so many at most


@dataclass(frozen=True)
class Case:
    """A network, the plain PyTorch it is compared with, and the shape of its input."""

    name: str
    network: Callable[[], nn.Module]
    baseline: Callable[[nn.Module], nn.Module]
    shape: tuple[int, ...]
    steps: int


@dataclass(frozen=True)
class Row:
    """One setting of the solver on one case; times in seconds, memory in bytes, evaluations on all levels."""

    case: str
    solver: str
    levels: int
    coarsening: int
    relaxation: str
    operator: str
    order: int
    iterations: int
    adjoint_iterations: int
    ratio: float
    seconds: float
    serial_seconds: float
    gradient_error: float
    evaluations: int
    adjoint_evaluations: int
    depth: int
    adjoint_depth: int
    memory: int
    serial_memory: int


def layers(name: str, block: Callable[[], nn.Module], steps: int, shape: tuple[int, ...]) -> Case:
    """A deep network, against the nn.Sequential of its layers."""
    return Case(name, lambda: LayerParallel(None, block, steps, 1.0), LayerParallel.to_sequential, shape, steps)


def gru(name: str, steps: int, width: int, num_layers: int, batch: int) -> Case:
    """An implicit GRU on sequences of 9 features, against torch.nn.GRU, which computes the classic one."""
    arguments = (9, width, num_layers)
    return Case(
        name, lambda: GRU(*arguments, formulation="implicit"), lambda net: nn.GRU(*arguments), (steps, batch, 9), steps
    )


CASES = [
    *(
        layers(f"dense-{width}x{steps}", lambda width=width: DenseBlock(width), steps, (200, width))
        for width in (8, 64)
        for steps in (64, 256, 1024)
    ),
    layers("conv-8x64", lambda: ConvBlock(8, convolutions=2), 64, (50, 8, 28, 28)),
    gru("gru-100x128", 128, 100, 2, 100),
    gru("gru-64x1024", 1024, 64, 1, 16),
    gru("gru-128x1024", 1024, 128, 1, 16),
]


def clock() -> float:
    """Seconds: of this process on the processor, or on a GPU those that pass until it has finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def median_seconds(runs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The median time of each of `runs`, which take turns, after one call each that is not counted."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(1 + repeats):
        for run, measured in zip(runs, times, strict=True):
            began = clock()
            run()
            if turn:
                measured.append(clock() - began)
    return [statistics.median(each) for each in times]


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory that `run` held at once, beyond what was held before."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    kineto = profile.profiler.kineto_results  # pyright: ignore
    changes = [(event.start_ns(), event.nbytes()) for event in kineto.events() if event.name() == "[memory]"]
    return max(itertools.accumulate((nbytes for _, nbytes in sorted(changes)), initial=0))


def step(net: nn.Module, x: Tensor, weight: Tensor) -> None:
    """One forward and backward, gradients anew; the loss sees u_N, or a recurrent network's h_n."""
    net.zero_grad(set_to_none=True)
    y = net(x)
    ((y[1] if isinstance(y, tuple) else y) * weight).sum().backward()


def gradient(net: nn.Module) -> Tensor:
    """All parameter gradients in one vector."""
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def results(net: LayerParallel | GRU) -> tuple[SolveResult, SolveResult]:
    """The forward and the adjoint solve of the network, or of its last recurrent layer."""
    forward, adjoint = (each[-1] for each in net.results)
    if forward is None or adjoint is None:
        raise RuntimeError("the network kept no results of its solves")
    return forward, adjoint


def families(steps: int) -> Iterator[list[MGRIT]]:
    """All operators on two levels with m = 8, 16, 32 and three with m = 8; within a family cycles differ, few first."""
    few, usual, many = ((0, 0), (1, 1)), ((0, 0), (1, 0), (1, 1)), ((0, 0), (1, 0), (1, 1), (2, 1))
    operators: tuple[tuple[dict[str, Any], tuple[tuple[int, int], ...]], ...] = (
        ({"coarse_operator": "rediscretised", "relaxation": "F"}, many),
        ({"coarse_operator": "rediscretised", "relaxation": "FCF"}, usual[1:]),
        ({"coarse_operator": "picard", "relaxation": "F"}, few),
        ({"coarse_operator": "linear", "relaxation": "F"}, usual),
    )
    for (levels, m), (options, cycles) in itertools.product(((2, 8), (2, 16), (2, 32), (3, 8)), operators):
        if 2 * m ** (levels - 1) <= steps and (levels == 2 or options["coarse_operator"] != "linear"):
            grid = {"levels": levels, "coarsening": m}
            yield [MGRIT(**grid, **options, iterations=k, adjoint_iterations=n) for k, n in cycles]


def candidates(net: LayerParallel | GRU, run: Callable[[], None], exact: Tensor, steps: int) -> list[MGRIT]:
    """The solvers within the target, half as deep as serial, about as soon as the soonest; at most one of a family."""
    within: list[tuple[float, MGRIT]] = []
    for family in families(steps):
        for solver in family:
            net.solver = solver
            began = clock()
            run()
            seconds = clock() - began
            deepest = max(result.sequential_depth for result in results(net))
            if float((gradient(net) - exact).norm() / exact.norm()) <= TARGET and deepest <= steps / 2:
                within.append((seconds, solver))
                break
    within.sort(key=lambda each: each[0])
    return [solver for seconds, solver in within if seconds <= NEAR * within[0][0]][:MOST]


def measure(case: Case, repeats: int, device: str) -> Iterator[Row]:
    """Our exact propagation, then the candidates, each against serial PyTorch timed beside it."""
    torch.manual_seed(0)
    net = case.network().to(device)
    if not isinstance(net, LayerParallel | GRU):
        raise TypeError(f"{case.name} is {type(net).__name__}; expected a LayerParallel or a GRU")
    baseline = case.baseline(net).to(device)
    x = torch.randn(case.shape, device=device, requires_grad=True)
    y = net(x)
    weight = torch.randn_like(y[1] if isinstance(y, tuple) else y)
    ours, theirs = partial(step, net, x, weight), partial(step, baseline, x, weight)
    net.solver = Serial()
    ours()
    exact, baseline_memory = gradient(net), peak_bytes(theirs)
    for solver in (Serial(), *candidates(net, ours, exact, case.steps)):
        net.solver = solver
        seconds, serial_seconds = median_seconds((ours, theirs), repeats)
        forward, adjoint = results(net)
        mgrit = solver if isinstance(solver, MGRIT) else MGRIT(levels=1, iterations=0, adjoint_iterations=0)
        yield Row(
            case=case.name,
            solver=shown(solver),
            levels=mgrit.levels,
            coarsening=mgrit.coarsening_per_level[0] if mgrit.levels > 1 else 0,
            relaxation=mgrit.relaxation_per_level[0] if mgrit.levels > 1 else "serial",
            operator=mgrit.coarse_operator if mgrit.levels > 1 else "",
            order=mgrit.picard_order,
            iterations=mgrit.iterations,
            adjoint_iterations=mgrit.adjoint_iterations,
            ratio=seconds / serial_seconds,
            seconds=seconds,
            serial_seconds=serial_seconds,
            gradient_error=float((gradient(net) - exact).norm() / exact.norm()),
            evaluations=sum(forward.evaluations),
            adjoint_evaluations=sum(adjoint.evaluations),
            depth=forward.sequential_depth,
            adjoint_depth=adjoint.sequential_depth,
            memory=peak_bytes(ours),
            serial_memory=baseline_memory,
        )


HEADER = (
    "| operator | levels | m | relax | its | time / serial | gradient error | Φ evaluations | depth | MiB (serial) |"
)


def line(row: Row) -> str:
    """A row of the table; evaluations and depth are forward + adjoint, of one recurrent layer (serial: N + N)."""
    operator = row.operator + (f" {row.order}" if row.operator == "picard" else "")
    cycles = f"{row.iterations}/{row.adjoint_iterations}"
    return (
        f"| {operator} | {row.levels} | {row.coarsening} | {row.relaxation} | {cycles} "
        f"| {row.ratio:.2f} | {row.gradient_error:.1e} | {row.evaluations} + {row.adjoint_evaluations} "
        f"| {row.depth} + {row.adjoint_depth} | {row.memory / 2**20:.0f} ({row.serial_memory / 2**20:.0f}) |"
    )


def main() -> None:
    """Measure the chosen cases, print a table each, and write all rows as JSON where asked to."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description="MGRIT against serial PyTorch, forward + backward")
    parser.add_argument("--cases", default=",".join(names), help="which, separated by commas (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu (one thread) or cuda (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each setting (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write all rows as JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases.split(",")) - set(names):
        parser.error(f"unknown cases {sorted(unknown)}; there are {', '.join(names)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA GPU here")
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else "one thread"
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which counts memory here, is chatty
    rows: list[Row] = []
    for case in CASES:
        if case.name not in arguments.cases.split(","):
            continue
        print(f"\n## {case.name}, input {case.shape}, {where}, torch {torch.__version__}\n\n{HEADER}")
        print("|---" * 10 + "|")
        measured = []
        for row in measure(case, arguments.repeats, arguments.device):
            measured.append(row)
            print(line(row), flush=True)
        serial = statistics.median(row.serial_seconds for row in measured)
        best = min((row for row in measured if row.operator), key=lambda row: row.seconds, default=None)
        found = line(replace(best, ratio=best.seconds / serial)) if best else "none of these"
        print(f"\nsoonest within a gradient error of {TARGET:g}, at most half as deep as serial: {found}")
        rows += measured
    if arguments.json:
        about = {"where": where, "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
