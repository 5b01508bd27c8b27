"""The marches of CUDA C++ on the CPU, and the same by the references."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lpgpu.kernels.implicit_gru import Cell, Coefficients, reference
from tests.assertions import relative_error
from tests.kernels.phases.programs import run


@dataclass(frozen=True, kw_only=True)
class Example:
    """A march over `steps` steps of `intervals` intervals, the last one `last_steps` long."""

    width: int
    intervals: int = 1
    batch: int = 3
    steps: int = 3
    last_steps: int = 3
    groups: int = 1
    implicit: bool = True
    bias: bool = True
    terms: bool = False
    in_clusters: bool = False
    dt: float = 0.7

    def tensors(self, adjoint: bool, dtype: torch.dtype) -> dict[str, Tensor]:
        """Random tensors, rounded to `dtype`, in the order in which the program reads them."""
        n, b, h = (self.intervals, self.steps), self.batch, self.width
        made = {"source": torch.randn(self.intervals, b, h), "x_or_c": torch.randn(*n, b, 3 * h)}
        if adjoint:
            made["a"] = torch.rand(*n, b, h)
        made["w"] = torch.randn(3 * h, h) * h**-0.5
        if self.bias:
            made["b"] = torch.randn(3 * h)
        if self.terms:
            made |= {name: torch.randn(*n, b, h) for name in ("g", "delta", "anchors")}
        return {name: tensor.to(dtype).float() for name, tensor in made.items()}


def ran(
    program: Path, adjoint: bool, operand: str, e: Example, tensors: dict[str, Tensor], file: Path, **options: bool
) -> Tensor:
    """The march by a compiled program: [intervals, steps, batch, width]."""
    integers = (
        e.width,
        e.intervals,
        e.batch,
        e.steps,
        e.last_steps,
        e.groups,
        e.implicit,
        e.bias,
        e.terms,
        e.in_clusters,
    )
    head = struct.pack("10if", *map(int, integers), e.dt)
    words = ["adjoint" if adjoint else "forward", operand]
    result = run(program, words, head, tensors.values(), file, **options)
    return result.reshape(e.intervals, e.steps, e.batch, e.width)


def expected(adjoint: bool, example: Example, tensors: dict[str, Tensor]) -> Tensor:
    """The march by the references, in fp64."""
    t = {name: tensor.double() for name, tensor in tensors.items()}
    u, states = t["source"], []
    for j in range(example.steps):
        out = torch.empty_like(u)
        if adjoint:
            at = Coefficients(t["a"][:, j], t["x_or_c"][:, j], t["a"][:, j])
            reference.vjp(u, at, t["w"], out)
        else:
            formulation = "implicit" if example.implicit else "classic"
            cell = Cell(t["w"], t.get("b"), example.dt, formulation)
            reference.advance(u, t["x_or_c"][:, j], cell, out)
        if example.terms:
            out += t["delta"][:, j] * (u - t["anchors"][:, j]) + t["g"][:, j]
        states.append(out)
        u = out
    return torch.stack(states, 1)


def difference(came: Tensor, wanted: Tensor, last_steps: int) -> float:
    """‖came − wanted‖ / ‖wanted‖ over all steps there are; infinite where anything behind them was written."""
    if not came[-1, last_steps:].isnan().all():
        return math.inf
    there = torch.ones_like(came, dtype=torch.bool)
    there[-1, last_steps:] = False
    return relative_error(came[there], wanted[there])
