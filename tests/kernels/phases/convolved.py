"""The sweeps of convolutions of CUDA C++ on the CPU, and the same by the references."""

import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lpgpu.kernels.conv_step import reference
from lpgpu.kernels.conv_step.cuda_sweep import ACTIVATIONS
from lpgpu.kernels.conv_step.layers import Filter, Saved
from tests.kernels.phases.programs import run


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sweep over `steps` steps of `intervals` intervals, the last one `last_steps` long."""

    channels: int
    height: int = 3
    width: int = 5
    images: int = 1
    intervals: int = 1
    steps: int = 2
    last_steps: int = 2
    convolutions: int = 2
    activation: str = "tanh"
    bias: bool = True
    terms: bool = False
    dt: float = 0.3

    @property
    def states(self) -> tuple[int, ...]:
        """Of every step: [intervals, steps, images, rows, columns, channels]."""
        return self.intervals, self.steps, self.images, self.height, self.width, self.channels

    def tensors(self, adjoint: bool, dtype: torch.dtype) -> dict[str, Tensor]:
        """Random tensors, rounded to `dtype`, in the order in which the program reads them."""
        layers, c = (self.intervals, self.steps), self.channels
        made = {"source": torch.randn(self.intervals, *self.states[2:])}
        for i in range(self.convolutions):
            made[f"w{i}"] = torch.randn(*layers, 3, 3, c, c) * (9 * c) ** -0.5  # […, row, column, in, out]
            if self.bias:
                made[f"b{i}"] = torch.randn(*layers, c)
            if adjoint:
                made[f"saved{i}"] = torch.randn(self.states).tanh()
                if self.activation in ("smooth_relu", "relu"):
                    made[f"saved{i}"].abs_()
        if self.terms:
            made |= {name: torch.randn(self.states) for name in ("g", "delta", "anchors")}
        return {name: tensor.to(dtype).float() for name, tensor in made.items()}


def ran(
    program: Path, adjoint: bool, operand: str, e: Example, tensors: dict[str, Tensor], file: Path, **options: bool
) -> Tensor:
    """The sweep by a compiled program: [intervals, steps, images, rows, columns, channels]."""
    sizes = (e.channels, e.height, e.width, e.images, e.intervals, e.steps, e.last_steps, e.convolutions)
    head = struct.pack("11if", *sizes, ACTIVATIONS.index(e.activation), e.bias, e.terms, e.dt)
    words = ["adjoint" if adjoint else "forward", operand]
    return run(program, words, head, tensors.values(), file, **options).reshape(e.states)


def expected(adjoint: bool, e: Example, tensors: dict[str, Tensor]) -> Tensor:
    """The sweep by the references, in fp64."""
    t = {name: tensor.double() for name, tensor in tensors.items()}
    u, states = t["source"].movedim(-1, -3), []

    def at(name: str, j: int) -> Tensor:
        return t[name][:, j].movedim(-1, -3)

    for j in range(e.steps):
        each = range(e.convolutions)
        filters = [Filter(t[f"w{i}"][:, j].permute(0, 4, 3, 1, 2), t[f"b{i}"][:, j] if e.bias else None) for i in each]
        out = torch.empty_like(u)
        if adjoint:
            reference.vjp(u, Saved([at(f"saved{i}", j) for i in each]), filters, e.dt, e.activation, out)
        else:
            reference.advance(u, filters, e.dt, e.activation, out)
        if e.terms:
            out += at("delta", j) * (u - at("anchors", j)) + at("g", j)
        states.append(out.movedim(-3, -1))
        u = out
    return torch.stack(states, 1)
