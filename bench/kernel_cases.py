"""The calls that `bench/kernels.py` measures: every operation over the shapes that matter, with the work each does.

A case makes its own inputs, a dict of tensors; `call` runs the operation on them, mutating what it mutates, and returns
the tensors to compare. The reference runs the same call in fp64.
"""

import itertools
from collections.abc import Iterator
from functools import partial

import torch
from kernel_case import Case, Inputs, unit
from kernel_cases_gru import gru_cases
from kernel_cases_picard import picard_cases
from machine import Work
from torch import Tensor

from lpgpu.kernels import conv_step, dense_step, fas
from lpgpu.kernels.conv_step import Filter
from lpgpu.kernels.dense_step import tiles as dense_tiles
from lpgpu.kernels.sweep import Sweep


def dense_inputs(points: int, batch: int, width: int, dtype: torch.dtype, device: str) -> Inputs:
    """States u, weights and biases of distinct layers, scaled as fresh ones are."""
    tensors = {
        "u": torch.randn(points, batch, width, device=device),
        "w": torch.randn(points - 1, width, width, device=device) * width**-0.5,
        "b": torch.randn(points - 1, width, device=device) * width**-0.5,
    }
    return {name: t.to(dtype) for name, t in tensors.items()}


def run_dense_sweep(sweep: Sweep, inputs: Inputs) -> Tensor:
    """u marched in place."""
    dense_step.sweep(inputs["u"], inputs["w"], inputs["b"], 0.01, "tanh", sweep)
    return inputs["u"]


def dense_adjoint_inputs(points: int, batch: int, width: int, dtype: torch.dtype, device: str) -> Inputs:
    """λ, what is saved of random states, and W."""
    inputs = dense_inputs(points, batch, width, dtype, device)
    saved = dense_step.linearise(inputs["u"][:-1], inputs["w"], inputs["b"], "tanh")
    return {"lam": torch.randn_like(inputs["u"]), "saved": saved, "w": inputs["w"]}


def run_dense_adjoint(sweep: Sweep, inputs: Inputs) -> Tensor:
    """λ marched in place."""
    dense_step.adjoint_sweep(inputs["lam"], inputs["saved"], inputs["w"], 0.01, "tanh", sweep)
    return inputs["lam"]


def dense_cases(device: str, *, quick: bool) -> Iterator[Case]:
    """Sweeps over distinct weights; batch 200, as many intervals as a network of 1024 layers has."""
    widths = (8, 64) if quick else (8, 16, 64, 128, 256, 512)
    for dtype, width, steps in itertools.product((torch.bfloat16, torch.float32), widths, (3, 15)):
        batch, intervals = 200, 1024 // (steps + 1)
        layers = intervals * (steps + 1)
        rows = batch * intervals
        size = torch.finfo(dtype).bits // 8
        resident = dense_tiles.resident_tile(width, batch, dtype, 90)
        tile = resident or dense_tiles.step_tile(width, dtype)
        work = Work(
            flops=2.0 * width**2 * rows * steps,
            bytes=float(size * (rows * width * (steps + 1) + intervals * steps * (width + 1) * width)),
            programs=intervals * -(-batch // tile.rows) * -(-width // tile.cols),
            steps=steps if resident else 1,
            launches=1 if resident else steps,
            unit=unit(dtype),
        )
        kernel = "dense_sweep_kernel" if resident else "dense_step_kernel"
        shape = f"H={width} rows={intervals}x{batch} steps={steps}"
        common = {"shape": shape, "dtype": dtype, "width": width, "work": work, "kernel": kernel}
        yield Case(
            operation="dense-sweep",
            make=partial(dense_inputs, layers + 1, batch, width, dtype, device),
            call=partial(run_dense_sweep, Sweep(layers, 0, steps + 1, steps)),
            **common,
        )
        yield Case(
            operation="dense-adjoint-sweep",
            make=partial(dense_adjoint_inputs, layers + 1, batch, width, dtype, device),
            call=partial(run_dense_adjoint, Sweep(layers, steps, steps + 1, steps, reverse=True)),
            **common,
        )


def conv_inputs(points: int, images: int, channels: int, pixels: int, dtype: torch.dtype, device: str) -> Inputs:
    """States in the memory order of the solver's, and the weights of distinct layers."""
    like = torch.empty(images, channels, pixels, pixels, device=device, dtype=dtype)
    u = conv_step.empty_states(points, like)
    u.copy_(torch.randn(u.shape, device=device))
    w = torch.randn(points - 1, channels, channels, 3, 3, device=device) * (9 * channels) ** -0.5
    b = torch.randn(points - 1, channels, device=device) * 0.1
    return {"u": u, "w": w.to(dtype), "b": b.to(dtype)}


def run_conv_sweep(sweep: Sweep, inputs: Inputs) -> Tensor:
    """u marched in place."""
    conv_step.sweep(inputs["u"], [Filter(inputs["w"], inputs["b"])], 0.01, "relu", sweep)
    return inputs["u"]


def cudnn_convolutions(inputs: Inputs, sweep: Sweep) -> object:
    """The same sweep by PyTorch's convolutions in channels_last, an interval at a time."""
    u = inputs["u"]
    for j in range(sweep.steps):
        for k in range(u.shape[0] - 1)[sweep.layers(j)]:
            y = torch.nn.functional.conv2d(u[k], inputs["w"][k], inputs["b"][k], padding=1)
            torch.add(u[k], y.relu_(), alpha=0.01, out=u[k + 1])
    return u


def conv_cases(device: str, *, quick: bool) -> Iterator[Case]:
    """3×3 convolutions, batch 50, on the images of MNIST (28²) and of 32²; 64 layers in intervals of 4."""
    channels = (8,) if quick else (8, 16, 64)
    for dtype, c, pixels in itertools.product((torch.bfloat16, torch.float32), channels, (28, 32)):
        images, steps, layers = 50, 3, 64
        intervals = layers // (steps + 1)
        rows = intervals * images * pixels**2
        size = torch.finfo(dtype).bits // 8
        sweep = Sweep(layers, 0, steps + 1, steps)
        make = partial(conv_inputs, layers + 1, images, c, pixels, dtype, device)
        yield Case(
            operation="conv-sweep",
            shape=f"C={c} {pixels}² images={intervals}x{images} steps={steps}",
            dtype=dtype,
            width=c,
            kernel="conv_step_kernel",
            make=make,
            call=partial(run_conv_sweep, sweep),
            work=Work(
                flops=18.0 * c**2 * rows * steps,
                bytes=float(size * rows * c * 2 * steps),
                programs=-(-rows // 128),
                steps=1,
                launches=steps,
                unit=unit(dtype),
            ),
            rivals={
                "cuDNN convolutions": lambda make=make, sweep=sweep: (partial(cudnn_convolutions, sweep=sweep), make())
            },
        )


def run_fas(inputs: Inputs) -> Tensor:
    """The coarse right-hand side, in place, and the residual's norm."""
    norm = fas.restrict_(inputs["coarse_phi"], inputs["phi"], inputs["u"])
    return torch.cat([inputs["coarse_phi"].flatten().double(), norm[None]])


def fas_cases(device: str, *, quick: bool) -> Iterator[Case]:
    """The arithmetic of one restriction: 256 C-points of 16 × 128, and of 50 images of 8 × 28²."""
    shapes = {"gru": (256, 16, 128)} if quick else {"gru": (256, 16, 128), "images": (16, 50, 8, 28, 28)}
    for dtype, (name, shape) in itertools.product((torch.bfloat16, torch.float32), shapes.items()):

        def make(shape: tuple[int, ...] = shape, dtype: torch.dtype = dtype) -> Inputs:
            return {name: torch.randn(shape, device=device, dtype=dtype) for name in ("coarse_phi", "phi", "u")}

        elements = torch.Size(shape).numel()
        yield Case(
            operation="fas",
            shape=f"{name} {'x'.join(map(str, shape))}",
            dtype=dtype,
            make=make,
            call=run_fas,
            kernel="fas_residual_kernel",
            work=Work(
                flops=0.0,
                bytes=4.0 * elements * torch.finfo(dtype).bits // 8,
                programs=min(1024, -(-elements // 1024)),
                steps=1,
                launches=2,
                unit=unit(dtype),
            ),
        )


def cases(device: str, *, quick: bool) -> list[Case]:
    """All of them."""
    families = (gru_cases, dense_cases, conv_cases, fas_cases, picard_cases)
    return [case for family in families for case in family(device, quick=quick)]
