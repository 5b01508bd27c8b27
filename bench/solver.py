"""Forward + backward by MGRIT against serial PyTorch: time, gradient error, work and memory, measured in one run.

    python bench/solver.py [--cases dense-8x1024,conv-8x64] [--repeats 5] [--json FILE]

Serial PyTorch is autograd through `net.to_sequential()`, an nn.Sequential of the same layers. Times are medians; on a
noisy machine only their ratio means something. The gradient error is ‖g − g_serial‖₂ / ‖g_serial‖₂ over all parameters.
Memory is the peak of what the allocator handed out beyond what was there before the call.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel
from lpgpu.nn import ConvBlock, DenseBlock

TARGET = 1e-2  # the gradient error within which the soonest setting is looked for


@dataclass(frozen=True)
class Case:
    """A network and a batch."""

    name: str
    block: Callable[[], nn.Module]
    layers: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One setting of the solver on one case; times in seconds, memory in bytes, evaluations on the finest level."""

    case: str
    levels: int
    coarsening: int
    relaxation: str
    iterations: int
    adjoint_iterations: int
    ratio: float
    seconds: float
    serial_seconds: float
    gradient_error: float
    evaluations: int
    adjoint_evaluations: int
    depth: int
    memory: int
    serial_memory: int


CASES = [
    *(
        Case(f"dense-{width}x{layers}", lambda width=width: DenseBlock(width), layers, (200, width))
        for width in (8, 64)
        for layers in (64, 256, 1024)
    ),
    Case("conv-8x64", lambda: ConvBlock(8, convolutions=2), 64, (50, 8, 28, 28)),
]


def settings() -> Iterator[MGRIT]:
    """Levels 2–3, m = 4, 8, 16, and iterations forward/adjoint from 1/0 to 2/2, F- and FCF-relaxed."""
    iterations = ((1, 0), (1, 1), (2, 1), (2, 2))
    for levels, m, relaxation, (forward, adjoint) in itertools.product((2, 3), (4, 8, 16), ("F", "FCF"), iterations):
        yield MGRIT(levels=levels, coarsening=m, relaxation=relaxation, iterations=forward, adjoint_iterations=adjoint)


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    """The median time of `run` after one call that is not counted."""
    times = []
    run()
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most memory that `run` held at once, beyond what was held before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    kineto = profile.profiler.kineto_results  # pyright: ignore
    changes = [(event.start_ns(), event.nbytes()) for event in kineto.events() if event.name() == "[memory]"]
    return max(itertools.accumulate((nbytes for _, nbytes in sorted(changes)), initial=0))


def step(net: nn.Module, x: Tensor, weight: Tensor) -> None:
    """One forward and backward, gradients anew."""
    net.zero_grad(set_to_none=True)
    (net(x) * weight).sum().backward()


def gradient(net: nn.Module) -> Tensor:
    """All parameter gradients in one vector; a stacked network's in the order of its sequential copy."""
    if isinstance(net, LayerParallel):
        return torch.cat([p.grad.flatten(1) for p in net.parameters() if p.grad is not None], 1).flatten()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def measure(case: Case, repeats: int) -> Iterator[Row]:
    """Every setting of the solver on `case`, against serial PyTorch timed beside each."""
    torch.manual_seed(0)
    net = LayerParallel(None, case.block, case.layers, 1.0)
    x, weight = torch.randn(case.shape, requires_grad=True), torch.randn(case.shape)
    serial = net.to_sequential()
    step(serial, x, weight)
    exact, serial_memory = gradient(serial), peak_bytes(lambda: step(serial, x, weight))
    for solver in settings():
        if case.layers // solver.coarsening_per_level[0] < 4:
            continue
        net.solver = solver
        serial_seconds = median_seconds(lambda: step(serial, x, weight), repeats)
        seconds = median_seconds(lambda: step(net, x, weight), repeats)
        forward, adjoint = net.forward_result, net.adjoint_result
        if forward is None or adjoint is None:
            raise RuntimeError("the network kept no results of its solves")
        if len(forward.evaluations) < solver.levels:
            continue
        yield Row(
            case=case.name,
            levels=solver.levels,
            coarsening=solver.coarsening_per_level[0],
            relaxation=solver.relaxation_per_level[0],
            iterations=solver.iterations,
            adjoint_iterations=solver.adjoint_iterations,
            ratio=seconds / serial_seconds,
            seconds=seconds,
            serial_seconds=serial_seconds,
            gradient_error=float((gradient(net) - exact).norm() / exact.norm()),
            evaluations=forward.evaluations[0],
            adjoint_evaluations=adjoint.evaluations[0],
            depth=forward.sequential_depth + adjoint.sequential_depth,
            memory=peak_bytes(lambda: step(net, x, weight)),
            serial_memory=serial_memory,
        )


HEADER = "| levels | m | relax | its | time / serial | gradient error | Φ evaluations | depth | MiB (serial) |"


def line(row: Row) -> str:
    """A row of the table; evaluations forward + adjoint, depth of both solves (serial: 2N)."""
    return (
        f"| {row.levels} | {row.coarsening} | {row.relaxation} | {row.iterations}/{row.adjoint_iterations} "
        f"| {row.ratio:.2f} | {row.gradient_error:.1e} | {row.evaluations} + {row.adjoint_evaluations} | {row.depth} "
        f"| {row.memory / 2**20:.0f} ({row.serial_memory / 2**20:.0f}) |"
    )


def main() -> None:
    """Measure the chosen cases, print a table each, and write all rows as JSON where asked to."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description="MGRIT against serial PyTorch, forward + backward, one thread")
    parser.add_argument("--cases", default=",".join(names), help="which, separated by commas (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each setting (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write all rows as JSON")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases.split(",")) - set(names):
        parser.error(f"unknown cases {sorted(unknown)}; there are {', '.join(names)}")
    torch.set_num_threads(1)
    rows: list[Row] = []
    for case in CASES:
        if case.name not in arguments.cases.split(","):
            continue
        print(f"\n## {case.name}, batch {case.shape[0]}, one thread, torch {torch.__version__}\n\n{HEADER}")
        print("|---" * 9 + "|")
        measured = []
        for row in measure(case, arguments.repeats):
            measured.append(row)
            print(line(row), flush=True)
        within = [row for row in measured if row.gradient_error <= TARGET]
        best = min(within, key=lambda row: row.ratio, default=None)
        print(f"\nsoonest within a gradient error of {TARGET:g}: {line(best) if best else 'none of these'}")
        rows += measured
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
