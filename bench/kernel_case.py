"""A case of the microbenchmarks: a call, its inputs, the work it does, and whether its result is right."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from machine import Work
from torch import Tensor

from lpgpu.kernels import dispatch
from lpgpu.kernels.precision import dot_precision

Inputs = dict[str, Tensor]
Run = Callable[[Inputs], object]

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
