"""Marches of Picard steps of order 1: what the coarsest level of 1024 layers does, forward and adjoint."""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from kernel_case import TOLERANCE, Case, Inputs, unit
from machine import Work
from torch import Tensor

from lpgpu.kernels import conv_step, dense_step, implicit_gru
from lpgpu.kernels.conv_step import Filter, Saved
from lpgpu.kernels.conv_step import tiles as conv_tiles
from lpgpu.kernels.dense_step import tiles as dense_tiles
from lpgpu.kernels.implicit_gru import Cell, Coefficients
from lpgpu.kernels.implicit_gru import tiles as gru_tiles
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep

SPAN, STEPS = 16, 64
DTYPES = (torch.bfloat16, torch.float32)


def march(reverse: bool) -> Sweep:
    """Through all runs."""
    return Sweep(STEPS, STEPS - 1 if reverse else 0, STEPS, STEPS, reverse=reverse)


def dense_inputs(batch: int, width: int, dtype: torch.dtype, device: str) -> Inputs:
    """States, weights and biases of runs, scaled as fresh ones are, and what is saved at random states."""
    layers = STEPS * SPAN
    w = torch.randn(layers, width, width, device=device) * width**-0.5
    b = torch.randn(layers, width, device=device) * width**-0.5
    saved = dense_step.linearise(torch.randn(layers, batch, width, device=device), w, b, "tanh")
    tensors = {"u": torch.randn(STEPS + 1, batch, width, device=device), "w": w, "b": b, "saved": saved}
    return {name: t.to(dtype) for name, t in tensors.items()}


def run_dense(sweep: Sweep, inputs: Inputs) -> Tensor:
    """The states marched in place, or in reverse the adjoint states."""
    w, b, saved = (inputs[name].unflatten(0, (STEPS, SPAN)) for name in ("w", "b", "saved"))
    if sweep.reverse:
        dense_step.adjoint_picard_sweep(inputs["u"], saved, w, 0.01, "tanh", 1, sweep)
    else:
        dense_step.picard_sweep(inputs["u"], w, b, 0.01, "tanh", 1, sweep)
    return inputs["u"]


def dense_cases(device: str, *, quick: bool) -> Iterator[Case]:
    """Batch 200, widths whose march is one launch, and one whose steps are launches of their own."""
    batch = 200
    widths = (8,) if quick else (8, 64, 128)
    for dtype, width, reverse in itertools.product(DTYPES, widths, (False, True)):
        resident = dense_tiles.picard_march_tile(width, dtype, 1)
        tile = resident or dense_tiles.picard_tile(width, batch, dtype, 1, reverse)
        size, layers = torch.finfo(dtype).bits // 8, STEPS * SPAN
        yield Case(
            operation="dense-picard-adjoint" if reverse else "dense-picard",
            shape=f"H={width} batch={batch} steps={STEPS}x{SPAN}",
            dtype=dtype,
            width=width,
            kernel="dense_picard_sweep_kernel" if resident else "dense_picard_kernel",
            make=partial(dense_inputs, batch, width, dtype, device),
            call=partial(run_dense, march(reverse)),
            tolerance=4 * TOLERANCE[dtype],
            work=Work(
                flops=2.0 * width**2 * batch * layers,
                bytes=float(size * (layers * width**2 + batch * width * (STEPS + layers * reverse))),
                programs=-(-batch // tile.rows) * -(-width // tile.cols),
                steps=(STEPS if resident else 1) * -(-SPAN // tile.layers),
                launches=1 if resident else STEPS,
                unit=unit(dtype),
            ),
        )


def gru_inputs(batch: int, width: int, dtype: torch.dtype, device: str) -> Inputs:
    """States, products x of the inputs, weights as fresh ones are, and the coefficients at random states."""
    layers, bound = STEPS * SPAN, width**-0.5
    made = partial(torch.randn, device=device)
    x, w = made(layers, batch, 3 * width), (torch.rand(3 * width, width, device=device) * 2 - 1) * bound
    at = implicit_gru.linearise(made(layers, batch, width) * 0.3, x, Cell(w, None, 1.0, "implicit"))
    tensors = {"u": made(STEPS + 1, batch, width) * 0.3, "x": x, "w": w, "a": at.a, "c": at.c, "c_n": at.c_n}
    return {name: t.to(dtype) for name, t in tensors.items()}


def run_gru(sweep: Sweep, inputs: Inputs) -> Tensor:
    """The states marched in place, or in reverse the adjoint states."""
    x, *at = (inputs[name].unflatten(0, (STEPS, SPAN)) for name in ("x", "a", "c", "c_n"))
    if sweep.reverse:
        implicit_gru.adjoint_picard_sweep(inputs["u"], Coefficients(*at), inputs["w"], 1, sweep)
    else:
        implicit_gru.picard_sweep(inputs["u"], x, Cell(inputs["w"], None, 1.0, "implicit"), 1, sweep)
    return inputs["u"]


def gru_cases(device: str, *, quick: bool) -> Iterator[Case]:
    """Batch 16; forward a run of 16 steps is one product, in the adjoint it is 16."""
    batch = 16
    widths = (64,) if quick else (64, 128, 512)
    for dtype, width, reverse in itertools.product(DTYPES, widths, (False, True)):
        precision, kind = dot_precision(dtype), "adjoint" if reverse else "forward"
        tile = gru_tiles.tile(width, dtype, 90, precision=precision, num_rows=batch)
        resident = tile.kind == "resident" and not reverse
        if not resident:
            tile = gru_tiles.picard_tile(width, dtype, 90, precision=precision, kind=kind)
        size, layers = torch.finfo(dtype).bits // 8, STEPS * SPAN
        yield Case(
            operation="gru-picard-adjoint" if reverse else "gru-picard",
            shape=f"H={width} batch={batch} steps={STEPS}x{SPAN}",
            dtype=dtype,
            width=width,
            kernel="gru_picard_sweep" if resident else "gru_adjoint_picard" if reverse else "gru_picard",
            make=partial(gru_inputs, batch, width, dtype, device),
            call=partial(run_gru, march(reverse)),
            tolerance=4 * TOLERANCE[dtype],
            work=Work(
                flops=6.0 * width**2 * batch * (layers if reverse else STEPS),
                bytes=float(size * (3 * width**2 + batch * width * (STEPS + layers * (4 if reverse else 3)))),
                programs=-(-batch // tile.rows) * -(-width // tile.columns),
                steps=STEPS * SPAN if resident else SPAN,
                launches=1 if resident else STEPS,
                unit=unit(dtype),
            ),
        )


def conv_inputs(channels: int, dtype: torch.dtype, device: str) -> Inputs:
    """States of 50 images, as the solver lays them out, 64 layers' weights, and what is saved at random states."""
    like = torch.empty(50, channels, 28, 28, device=device, dtype=dtype)
    u, states = conv_step.empty_states(5, like), conv_step.empty_states(64, like)
    u.copy_(torch.randn(u.shape, device=device))
    states.copy_(torch.randn(states.shape, device=device))
    w = torch.randn(64, channels, channels, 3, 3, device=device) * (9 * channels) ** -0.5
    b = torch.randn(64, channels, device=device) * 0.1
    inputs = {"u": u, "w": w.to(dtype), "b": b.to(dtype)}
    saved = conv_step.linearise(states, [Filter(inputs["w"], inputs["b"])], "relu")
    return inputs | {"saved": saved.stacked()[0]}


def run_conv(sweep: Sweep, inputs: Inputs) -> Tensor:
    """The states marched in place, or in reverse the adjoint states."""
    w, b, saved = (inputs[name].unflatten(0, (4, SPAN)) for name in ("w", "b", "saved"))
    if sweep.reverse:
        conv_step.adjoint_picard_sweep(inputs["u"], Saved([saved]), [Filter(w, b)], 0.01, "relu", 1, sweep)
    else:
        conv_step.picard_sweep(inputs["u"], [Filter(w, b)], 0.01, "relu", 1, sweep)
    return inputs["u"]


def conv_cases(device: str, *, quick: bool) -> Iterator[Case]:
    """64 layers in runs of 16, batch 50, 28×28."""
    channels, rows = (8,) if quick else (8, 64), 50 * 28**2
    for dtype, c, reverse in itertools.product(DTYPES, channels, (False, True)):
        tile = conv_tiles.picard_tile(c, dtype, not reverse)
        size = torch.finfo(dtype).bits // 8
        yield Case(
            operation="conv-picard-adjoint" if reverse else "conv-picard",
            shape=f"C={c} 28² images=50 steps=4x{SPAN}",
            dtype=dtype,
            width=c,
            kernel="conv_picard_kernel",
            make=partial(conv_inputs, c, dtype, device),
            call=partial(run_conv, Sweep(4, 3 if reverse else 0, 4, 4, reverse=reverse)),
            work=Work(
                flops=18.0 * c**2 * rows * 64,
                bytes=float(size * rows * c * (2 * 4 + 64 * reverse)),
                programs=-(-rows // tile.pixels) * -(-c // tile.cols),
                steps=-(-SPAN // tile.layers),
                launches=4,
                unit=unit(dtype),
            ),
        )


def picard_cases(device: str, *, quick: bool) -> Iterator[Case]:
    """Of every kind of layers."""
    for family in (dense_cases, gru_cases, conv_cases):
        yield from family(device, quick=quick)
