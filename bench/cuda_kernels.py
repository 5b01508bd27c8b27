"""The kernels in CUDA C++ on a GPU: right first, then how long, every launch plan there is for a shape.

    python bench/cuda_kernels.py [--minutes 2] [--only gru-forward,gru-adjoint] [--quick] [--check] [--json FILE]

Cubins that are missing are built with nvcc. Each case runs in a worker process that a failure or a hang costs, not the
others; its row is written as soon as it is measured, one JSON object a line. A result is right where it differs from
the reference in fp64 by rounding, is the same bits each time, and every element was written. Times: gpu_timing.py.
"""

import argparse
import itertools
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from cuda_conv_cases import ConvCase, conv_cases, conv_rows
from cuda_march_cases import Case, Inputs
from cuda_scan_cases import ScanCase, scan_cases, scan_rows
from gpu_timing import copies_past_cache, graph_times
from torch import Tensor, nn

from lpgpu.kernels import dispatch
from lpgpu.kernels.cuda import choice, modules
from lpgpu.kernels.implicit_gru import cuda_march
from lpgpu.kernels.precision import Precision, set_precision

BUILD = Path(__file__).parents[1] / "build" / "cubins"
TOLERANCE = {"bf16": 3e-2, "tf32": 1e-2, "tf32x3": 1e-4}
STALL = 30.0  # seconds without a row after which a worker is given up

Row = dict[str, Any]


def cases(*, quick: bool) -> list[Case | ScanCase | ConvCase]:
    """The shapes that matter first."""
    shapes: dict[Precision, list[tuple[int, int]]] = {
        "bf16": [(512, 16), (256, 16), (1024, 16), (128, 16), (512, 64), (256, 64), (1024, 64)],
        "tf32x3": [(128, 16), (64, 16), (256, 16), (512, 64), (128, 64)],
        "tf32": [(128, 16), (256, 16), (1024, 16)],
    }
    if not quick:
        shapes["bf16"] += [(64, 16), (192, 16), (384, 16), (768, 64), (512, 1), (256, 256), (512, 256), (1000, 20)]
        shapes["tf32x3"] += [(192, 16), (512, 16), (256, 64)]
        shapes["tf32"] += [(64, 16), (512, 64), (1024, 64)]
    found = [
        [Case(operation=o, width=h, batch=b, steps=256, precision=precision) for h, b in sizes]
        for precision, sizes in shapes.items()
        for o in ("gru-forward", "gru-adjoint")
    ]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*found))
    marches = [case for case in in_turn if case is not None]
    return [*conv_cases(), *marches[:6], *scan_cases(), *marches[6:]]


def rows_of(case: Case | ScanCase | ConvCase, *, check: bool, others: bool = True) -> Iterator[Row]:
    """One for each plan, and one for the `others` that could be run instead."""
    if isinstance(case, ConvCase):
        yield from conv_rows(case, check=check)
        return
    if isinstance(case, ScanCase):
        yield from scan_rows(case, check=check)
        return
    torch.manual_seed(0)
    set_precision("tf32x3" if case.precision == "bf16" else case.precision)
    torch.backends.cudnn.allow_tf32 = case.precision == "tf32"
    inputs = case.inputs()
    with dispatch.backend("reference"):
        expected = case.run(None, {name: t.double() for name, t in inputs.items()})
    copies = [case.poisoned(inputs) for _ in range(min(4, copies_past_cache(sum(t.nbytes for t in inputs.values()))))]
    properties = torch.cuda.get_device_properties(0)
    arch, multiprocessors = 10 * properties.major + properties.minor, properties.multi_processor_count
    for plan in cuda_march.plans(
        case.width, case.batch, case.dtype, case.precision, arch=arch, multiprocessors=multiprocessors
    ):
        row: Row = {"case": case.name, "plan": vars(plan)}
        yield row | guarded(lambda plan=plan: checked(case, plan, inputs, expected, copies, check=check))
    if others and not check:
        yield {"case": case.name, "rivals": guarded(lambda: rivals(case, copies))}


def checked(
    case: Case, plan: cuda_march.Plan, inputs: Inputs, expected: Tensor, copies: list[Inputs], *, check: bool
) -> Row:
    """The error of a plan, and where it is right its time."""
    came = case.run(plan, case.poisoned(inputs)).clone()
    error = float(torch.linalg.vector_norm(came.double() - expected) / torch.linalg.vector_norm(expected))
    again = all(torch.equal(case.run(plan, case.poisoned(inputs)), came) for _ in range(5))
    row: Row = {"error": error, "same bits again": again}
    if not error <= TOLERANCE[case.precision] or not again:
        return row | {"wrong": True}
    if check:
        return row
    times = graph_times(lambda t: case.run(plan, t), copies, replays=10)
    return row | {"seconds": vars(times), "us per step": 1e6 * times.p50 / case.steps}


def rivals(case: Case, copies: list[Inputs]) -> Row:
    """Seconds of Triton's kernels ("now"), and of cuDNN's GRU: forward, or what a backward adds to it."""
    set_precision("tf32x3" if case.precision == "bf16" else case.precision)
    torch.backends.cudnn.allow_tf32 = case.precision == "tf32"
    with choice.choice("nowhere"):
        row: Row = {"now": graph_times(lambda t: case.run(None, t), copies[:1], replays=10).p50}
    gru = nn.GRU(case.width, case.width, device="cuda", dtype=case.dtype)
    gru.flatten_parameters()
    x = torch.randn(case.steps, case.batch, case.width, device="cuda", dtype=case.dtype)
    lam = torch.randn_like(x)

    def forward(x: Tensor) -> object:
        with torch.no_grad():
            return gru(x)

    def both(x: Tensor) -> object:
        return torch.autograd.grad(gru(x)[0], list(gru.parameters()), lam)

    row["cuDNN forward"] = graph_times(forward, [x], replays=10).p50
    if case.operation == "gru-adjoint":
        row["cuDNN forward and backward"] = graph_times(both, [x], replays=10).p50
    return row | {"cuDNN": torch.backends.cudnn.version()}


def guarded(measure: Any) -> Row:
    """What it returns, or what went wrong."""
    try:
        return measure()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:2000]}


def work(chosen: list[Case | ScanCase | ConvCase], *, check: bool) -> None:
    """The worker: the number of each case it begins, and its rows, a line each; a broken CUDA context ends it.

    What else could be run comes when all plans are measured.
    """
    for number, case in enumerate(chosen):
        print(json.dumps({"number": number}), flush=True)
        for row in rows_of(case, check=check, others=False):
            print(json.dumps({"number": number} | row), flush=True)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    for case in chosen if not check else ():
        if isinstance(case, Case):
            row = {"case": case.name, "rivals": guarded(lambda case=case: rivals(case, [case.inputs()]))}
            print(json.dumps({"number": len(chosen)} | row), flush=True)


def measured(chosen: list[Case | ScanCase | ConvCase], minutes: float, options: list[str]) -> Iterator[Row]:
    """Rows of workers, a new one behind every case that ended one, until the time is up."""
    until, first = time.monotonic() + 60 * minutes, 0
    while first < len(chosen):
        command = [sys.executable, __file__, *options, "--worker", str(first)]
        number = 0
        with tempfile.TemporaryFile("w+") as errors:
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
            for row in _lines(worker, until):
                number = row.pop("number")
                if row:
                    yield row
            errors.seek(0)
            said = errors.read()[-2000:]
        if time.monotonic() >= until:
            yield {"time is up": f"after {minutes:g} minutes", "left out": [c.name for c in chosen[first + number :]]}
            return
        if worker.returncode == 0:
            return
        name = chosen[min(first + number, len(chosen) - 1)].name
        yield {"case": name, "failed": f"worker ended with {worker.returncode}: {said}"}
        first += number + 1


def _lines(worker: "subprocess.Popen[str]", until: float) -> Iterator[Row]:
    """The worker's rows; it is killed where none comes for long, or the time is up."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in worker.stdout or ():
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        while (line := lines.get(timeout=max(0.0, min(STALL, until - time.monotonic())))) is not None:
            yield json.loads(line)
        worker.wait(timeout=5)
    except (queue.Empty, subprocess.TimeoutExpired):
        worker.kill()
        worker.wait()


def prepare() -> None:
    """Build the cubins that are missing, side by side."""
    arch = 10 * torch.cuda.get_device_capability()[0] + torch.cuda.get_device_capability()[1]
    os.environ.setdefault("LPGPU_CUBINS", str(BUILD))
    missing = [source for source in modules.SOURCES if modules.cubin(source, arch) is None]
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda source: modules.build(source, modules.TARGETS[arch], BUILD), missing))
    modules.cubin.cache_clear()
    print(f"built {missing} in {time.monotonic() - began:.1f} s", flush=True)


def about() -> Row:
    """What the figures were taken on."""
    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description="the kernels in CUDA C++: right, and how long")
    parser.add_argument("--minutes", type=float, default=2.0, help="stop after so many [%(default)s]")
    parser.add_argument("--only", help="operations, separated by commas [all]")
    parser.add_argument("--quick", action="store_true", help="few shapes")
    parser.add_argument("--check", action="store_true", help="are they right? no times")
    parser.add_argument("--json", type=Path, help="where to write the rows, one a line")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = [c for c in cases(quick=arguments.quick) if not arguments.only or c.operation in arguments.only.split(",")]
    if not torch.cuda.is_available():
        sys.exit("bench/cuda_kernels.py: PyTorch finds no CUDA GPU here")
    if arguments.worker is not None:
        return work(chosen[arguments.worker :], check=arguments.check)
    prepare()
    options = [each for each in sys.argv[1:] if each in ("--quick", "--check") or each.startswith("--only=")]
    if arguments.only:
        options.append(f"--only={arguments.only}")
    out = arguments.json.open("a") if arguments.json else None
    wrong = 0
    for row in itertools.chain([about()], measured(chosen, arguments.minutes, options)):
        wrong += "failed" in row or "wrong" in row or "failed" in row.get("rivals", {})
        print(json.dumps(row), flush=True)
        if out:
            out.write(json.dumps(row) + "\n")
            out.flush()
    if wrong:
        sys.exit(f"{wrong} rows are wrong or failed")


if __name__ == "__main__":
    main()
