"""Serial solves of a GRU for bench/cuda_kernels.py: their shapes, inputs and calls."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lpgpu.kernels import implicit_gru
from lpgpu.kernels.implicit_gru import cuda_march
from lpgpu.kernels.precision import Precision
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms

Inputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A serial solve of one kind over `steps` steps; each of its plans is a row."""

    operation: str
    width: int
    batch: int
    steps: int
    precision: Precision = "bf16"

    @property
    def dtype(self) -> torch.dtype:
        """bf16 tensors, or fp32 ones whose products are made in another precision."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def name(self) -> str:
        """As in the rows."""
        return f"{self.operation} H={self.width} batch={self.batch} steps={self.steps} {self.precision}"

    @property
    def sweep(self) -> Sweep:
        """One interval, the whole sequence."""
        reverse = self.operation == "gru-adjoint"
        return Sweep(self.steps, self.steps - 1 if reverse else 0, self.steps, self.steps, reverse)

    def inputs(self, device: str = "cuda") -> Inputs:
        """Fresh random ones, as a new network has."""
        width, shape = self.width, (self.steps, self.batch)
        bound = width**-0.5
        w = (torch.rand(3 * width, width, device=device) * 2 - 1) * bound
        made = {"u": torch.randn(shape[0] + 1, shape[1], width, device=device) * 0.3, "w": w}
        if self.operation == "gru-adjoint":
            made |= {"a": torch.rand(*shape, width, device=device)}
            made |= {"c": torch.randn(*shape, 3 * width, device=device) * 0.25}
            made |= {"g": torch.randn(shape[0] + 1, shape[1], width, device=device)}
        else:
            made |= {"x": torch.randn(*shape, 3 * width, device=device)}
            made |= {"b": (torch.rand(3 * width, device=device) * 2 - 1) * bound}
        return {name: t.to(self.dtype) for name, t in made.items()}

    def run(self, plan: cuda_march.Plan | None, t: Inputs) -> Tensor:
        """The march in place by a plan, or by what `implicit_gru` chooses."""
        if self.operation == "gru-adjoint":
            at, terms = implicit_gru.Coefficients(t["a"], t["c"], t["a"]), Terms(t["g"])
            if plan is None:
                implicit_gru.adjoint_sweep(t["u"], at, t["w"], self.sweep, terms)
            else:
                cuda_march.adjoint_sweep(t["u"], at, t["w"], self.sweep, terms, plan)
            return t["u"]
        cell = implicit_gru.Cell(t["w"], t["b"], 1.0, "classic")
        if plan is None:
            implicit_gru.sweep(t["u"], t["x"], cell, self.sweep)
        else:
            cuda_march.sweep(t["u"], t["x"], cell, self.sweep, NO_TERMS, plan)
        return t["u"]

    def poisoned(self, t: Inputs) -> Inputs:
        """A copy whose states to be written are NaN."""
        copy = {name: tensor.clone() for name, tensor in t.items()}
        targets = slice(0, -1) if self.operation == "gru-adjoint" else slice(1, None)
        copy["u"][targets] = float("nan")
        return copy
