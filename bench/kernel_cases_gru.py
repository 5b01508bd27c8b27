"""The GRU's cases of the microbenchmarks: sweeps of relaxation, forward and adjoint, and serial solves."""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from kernel_case import TOLERANCE, Case, Inputs, Run, unit
from machine import Work
from torch import Tensor, nn

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.implicit_gru import Cell, tiles
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep

BATCH = 16


def gru_inputs(points: int, batch: int, width: int, dtype: torch.dtype, device: str) -> Inputs:
    """States h, products x of the inputs, and weights of a GRU, scaled as a fresh network's are."""
    made = partial(torch.randn, device=device)
    bound = width**-0.5
    tensors = {
        "h": made(points, batch, width) * 0.3,
        "x": made(points - 1, batch, 3 * width),
        "w": (torch.rand(3 * width, width, device=device) * 2 - 1) * bound,
        "b": (torch.rand(3 * width, device=device) * 2 - 1) * bound,
    }
    return {name: t.to(dtype) for name, t in tensors.items()}


def run_gru_sweep(sweep: Sweep, inputs: Inputs) -> Tensor:
    """h marched in place."""
    implicit_gru.sweep(inputs["h"], inputs["x"], Cell(inputs["w"], inputs["b"], 1.0, "implicit"), sweep)
    return inputs["h"]


def run_gru_adjoint(sweep: Sweep, inputs: Inputs) -> Tensor:
    """λ marched in place, by coefficients taken beforehand."""
    at = implicit_gru.Coefficients(inputs["a"], inputs["c"], inputs["c_n"])
    implicit_gru.adjoint_sweep(inputs["lam"], at, inputs["w"], sweep)
    return inputs["lam"]


def gru_adjoint_inputs(points: int, batch: int, width: int, dtype: torch.dtype, device: str) -> Inputs:
    """λ, the coefficients at random states, and W."""
    inputs = gru_inputs(points, batch, width, dtype, device)
    cell = Cell(inputs["w"], inputs["b"], 1.0, "implicit")
    at = implicit_gru.linearise(inputs["h"][:-1], inputs["x"], cell)
    return {"lam": torch.randn_like(inputs["h"]), "a": at.a, "c": at.c, "c_n": at.c_n, "w": inputs["w"]}


def gru_work(width: int, rows: int, steps: int, dtype: torch.dtype, kind: tiles.Kind) -> tuple[Work, str]:
    """Three products a row and step; what each step reads and writes once, and W once. And the compiled kernel."""
    precision = dot_precision(dtype)
    tile = tiles.tile(width, dtype, 90, precision=precision, kind=kind, num_rows=rows, steps=steps)
    resident = tile.kind == "resident"
    work = Work(
        flops=float(tiles.flops(rows, width, steps, kind)),
        bytes=float(tiles.traffic_bytes(rows, width, steps, dtype, kind)),
        programs=-(-rows // tile.rows) * (1 if resident else -(-width // tile.columns)),
        steps=steps if resident else 1,
        launches=1 if resident else steps,
        unit=unit(dtype),
    )
    kernels = {"forward": ("gru_sweep", "gru_step_tiled"), "adjoint": ("gru_adjoint_sweep", "gru_adjoint_tiled")}
    return work, kernels[kind][not resident]


def gru_cases(device: str, *, quick: bool) -> Iterator[Case]:
    """Sweeps of relaxation (many rows, few steps) and serial solves (few rows, many steps), forward and adjoint."""
    widths = (64, 128) if quick else (64, 100, 128, 256, 512, 1000)
    shapes = ((256, 4), (4096, 4)) if quick else ((16, 1), (256, 4), (4096, 4), (4096, 16), (16384, 4))
    for dtype, width, (rows, steps) in itertools.product((torch.bfloat16, torch.float32), widths, shapes):
        if width > 128 and rows * steps > 16384:
            continue  # gigabytes of inputs
        intervals = rows // BATCH
        layers = intervals * (steps + 1)
        shape = f"H={width} rows={rows} steps={steps}"
        common = {"shape": shape, "dtype": dtype, "width": width}
        work, kernel = gru_work(width, rows, steps, dtype, "forward")
        yield Case(
            operation="gru-sweep",
            work=work,
            kernel=kernel,
            make=partial(gru_inputs, layers + 1, BATCH, width, dtype, device),
            call=partial(run_gru_sweep, Sweep(layers, 0, steps + 1, steps)),
            **common,
        )
        work, kernel = gru_work(width, rows, steps, dtype, "adjoint")
        yield Case(
            operation="gru-adjoint-sweep",
            work=work,
            kernel=kernel,
            make=partial(gru_adjoint_inputs, layers + 1, BATCH, width, dtype, device),
            call=partial(run_gru_adjoint, Sweep(layers, steps, steps + 1, steps, reverse=True)),
            **common,
        )
    serial = ((128, 16),) if quick else itertools.product((64, 100, 128), (16, 64, 256))
    for dtype, (width, batch) in itertools.product((torch.bfloat16, torch.float32), tuple(serial)):
        steps = 256
        work, kernel = gru_work(width, batch, steps, dtype, "forward")
        yield Case(
            operation="gru-serial",
            shape=f"H={width} batch={batch} steps={steps}",
            dtype=dtype,
            width=width,
            make=partial(gru_inputs, steps + 1, batch, width, dtype, device),
            call=partial(run_gru_sweep, Sweep(steps, 0, steps, steps)),
            work=work,
            kernel=kernel,
            tolerance=4 * TOLERANCE[dtype],
            rivals={"cuDNN GRU": partial(cudnn_gru, steps, batch, width, dtype, device)},
        )


def cudnn_gru(steps: int, batch: int, width: int, dtype: torch.dtype, device: str) -> tuple[Run, Inputs]:
    """torch.nn.GRU over as many steps, its input as wide as its state; inference."""
    gru = nn.GRU(width, width, device=device, dtype=dtype).eval()
    gru.flatten_parameters()

    def run(inputs: Inputs) -> object:
        with torch.no_grad():
            return gru(inputs["x"])

    return run, {"x": torch.randn(steps, batch, width, device=device, dtype=dtype)}
