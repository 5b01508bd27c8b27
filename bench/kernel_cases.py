"""The calls that `bench/kernels.py` measures: every operation over the shapes that matter, with the work each does.

A case makes its own inputs, a dict of tensors; `call` runs the operation on them, mutating what it mutates, and returns
the tensors to compare. The reference runs the same call in fp64.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from machine import Work
from torch import Tensor, nn

from lpgpu.kernels import conv_step, dense_step, dispatch, fas, implicit_gru
from lpgpu.kernels.conv_step import Filter
from lpgpu.kernels.dense_step import tiles as dense_tiles
from lpgpu.kernels.implicit_gru import Cell, tiles
from lpgpu.kernels.precision import dot_precision
from lpgpu.kernels.sweep import Sweep

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], object]

BATCH = 16
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation on one shape. `kernel` and `width` say which compiled configuration is nearest to what runs."""

    operation: str
    shape: str
    dtype: torch.dtype
    make: Callable[[], Inputs]
    call: Callable[[Inputs], Tensor]
    work: Work
    kernel: str
    width: int = 0
    tolerance: float = 0.0
    rivals: dict[str, Callable[[], tuple[Run, Inputs]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the case is called on the command line and in results."""
        return f"{self.operation} {self.shape} {NAMES[self.dtype]}"

    @property
    def allowed(self) -> float:
        """The relative error within which the result is right."""
        return self.tolerance or TOLERANCE[self.dtype]

    def error(self, inputs: Inputs) -> float:
        """‖came − reference‖ / ‖reference‖, the reference in fp64 from the same numbers; infinite for a NaN."""
        came = self.call(clone(inputs))
        with dispatch.backend("reference"):
            expected = self.call({name: t.double() for name, t in inputs.items()})
        error = float(torch.linalg.vector_norm(came.double() - expected) / torch.linalg.vector_norm(expected))
        return math.inf if math.isnan(error) else error


def unit(dtype: torch.dtype) -> str:
    """The kind of products that tensors of this dtype take, as the precision knob stands."""
    return dot_precision(dtype) if dtype == torch.float32 else NAMES[dtype]


def nbytes(inputs: Inputs) -> int:
    """Bytes of all inputs."""
    return sum(t.numel() * t.element_size() for t in inputs.values())


def clone(inputs: Inputs) -> Inputs:
    """Copies of all inputs."""
    return {name: t.clone() for name, t in inputs.items()}


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
    norm = fas.residual_norm(inputs["phi"], inputs["u"])
    fas.coarse_right_hand_side_(inputs["coarse_phi"], inputs["phi"])
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
                bytes=5.0 * elements * torch.finfo(dtype).bits // 8,
                programs=-(-elements // 4096),
                steps=1,
                launches=3,
                unit=unit(dtype),
            ),
        )


def cases(device: str, *, quick: bool) -> list[Case]:
    """All of them."""
    families = (gru_cases, dense_cases, conv_cases, fas_cases)
    return [case for family in families for case in family(device, quick=quick)]
