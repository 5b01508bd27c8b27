"""MGRIT against the best plain PyTorch, forward + backward, as items of `bench/gpu.py`: networks of bench/solver.py.

Baselines: torch.nn.GRU (cuDNN), or an nn.Sequential of the same layers (convolutions in channels_last). All are timed
as a user calls them (our solves are then replayed from graphs of their own) and whole, in one CUDA graph. The gradient
error is that against exact propagation of the same network.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from gpu_timing import DEVICE, REHEARSING, both_times, eager_times, same_precision
from solver import CASES, Case, gradient, gru, layers, results, step

from lpgpu import GRU, MGRIT, LayerParallel, Serial
from lpgpu.nn import ConvBlock, DenseBlock

Item = Callable[[], Iterator[dict[str, Any]]]

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SETTINGS = [
    *(
        MGRIT(levels=2, coarsening=16, relaxation=relaxation, iterations=1, adjoint_iterations=adjoint)
        for relaxation, adjoint in itertools.product(("FCF", "F"), (0, 1))
    ),
    MGRIT(levels=2, coarsening=32, relaxation="F", iterations=1, adjoint_iterations=1),
    MGRIT(levels=3, coarsening=(16, 8), relaxation="F", iterations=1, adjoint_iterations=1),
    *(
        MGRIT(levels=2, coarsening=m, relaxation="F", iterations=n, adjoint_iterations=n, coarse_operator="linear")
        for m, n in ((32, 0), (16, 1))
    ),
    MGRIT(
        levels=2,
        coarsening=32,
        relaxation="F",
        iterations=0,
        adjoint_iterations=0,
        coarse_operator="linear",
        initial_guess="constant",
    ),
    *(
        MGRIT(levels=2, coarsening=16, relaxation="F", iterations=1, adjoint_iterations=n, coarse_operator="picard")
        for n in (0, 1)
    ),
]


def chosen() -> list[Case]:
    """The cases of bench/solver.py that a GPU is for, and a larger batch."""
    if REHEARSING:
        dense = layers("dense-8x32", lambda: DenseBlock(8), 32, (4, 8))
        return [gru("gru-16x32", 32, 16, 1, 4), dense, layers("conv-2x32", lambda: ConvBlock(2), 32, (2, 2, 6, 6))]
    named = {case.name: case for case in CASES}
    names = ("dense-64x1024", "conv-8x64")
    first = (gru("gru-128x128", 128, 128, 1, 16), gru("gru-128x128-b64", 128, 128, 1, 64))
    longer = (named["gru-128x1024"], gru("gru-256x1024", 1024, 256, 1, 16), gru("gru-128x4096", 4096, 128, 1, 16))
    others = (gru("gru-128x1024-b64", 1024, 128, 1, 64), named["gru-64x1024"], named["dense-8x1024"])
    return [*first, *(named[name] for name in names), *longer, *others]


def measure(case: Case, dtype: str, *, check: bool) -> Iterator[dict[str, Any]]:
    """The baseline, exact propagation, then every setting: a row each."""
    torch.manual_seed(0)
    precision, kind = same_precision(), DTYPES[dtype]
    net = case.network().to(DEVICE, kind)
    if not isinstance(net, LayerParallel | GRU):
        raise TypeError(f"{case.name} is {type(net).__name__}; expected a LayerParallel or a GRU")
    x = torch.randn(case.shape, device=DEVICE, dtype=kind, requires_grad=True)
    weight = torch.randn_like(_end(net(x)))
    if not check:
        baseline = case.baseline(net).to(DEVICE, kind)
        laid = x.detach().to(memory_format=torch.channels_last).requires_grad_() if x.ndim == 4 else x
        baseline = baseline.to(memory_format=torch.channels_last) if x.ndim == 4 else baseline
        times = both_times(lambda: step(baseline, laid, weight), repeats=7)
        yield {"solver": "PyTorch", "precision": precision, **times}
        if dtype == "bf16" and isinstance(net, GRU):  # cuDNN has persistent kernels for fp16, but not for bf16
            half, x_half = case.baseline(net).to(DEVICE, torch.float16), x.detach().half().requires_grad_()
            times = both_times(lambda: step(half, x_half, weight.half()), repeats=7)
            yield {"solver": "PyTorch fp16", "precision": precision, **times}
    exact = None
    for solver in (Serial(), *SETTINGS):
        net.solver = solver
        step(net, x, weight)
        exact = gradient(net).clone() if exact is None else exact
        error = float((gradient(net) - exact).norm() / exact.norm())
        row: dict[str, Any] = {"solver": str(solver), "gradient_error": error, "precision": precision}
        if not error < float("inf"):
            row["failed"] = "the gradient is not finite"
        elif not check:
            forward, adjoint = results(net)
            row |= {"depth": forward.sequential_depth + adjoint.sequential_depth}
            row |= both_times(lambda: step(net, x, weight), repeats=7)
            net.solver = replace(solver, cuda_graph=False)
            row["without graphs"] = asdict(eager_times(lambda: step(net, x, weight), repeats=7))
            row["recorded"], row["refused"] = net.graphs.recorded, list(net.graphs.refusals.values())
        yield row


def _end(y: Any) -> torch.Tensor:
    return y[1] if isinstance(y, tuple) else y


def items(*, check: bool) -> dict[str, Item]:
    """Every network in both dtypes."""
    return {
        f"solver {case.name} {dtype}": partial(measure, case, dtype, check=check)
        for case, dtype in itertools.product(chosen(), DTYPES)
    }
