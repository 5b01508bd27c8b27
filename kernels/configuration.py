"""A shipped configuration of a Triton kernel, complete enough to be compiled ahead of time, without a GPU."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One kernel, specialised.

    Attributes:
        kernel: the `triton.jit` function.
        name: what it is, such as "H=64 bf16".
        signature: type of every argument by name: "*bf16", "fp32", "i32", "constexpr".
        constexprs: value of every constexpr argument (None where an optional tensor is absent).
        num_warps, num_stages: as launched.
        archs: the compute capabilities it is shipped for.
        uses_dots: whether matrix instructions must appear in what is compiled.
    """

    kernel: Any
    name: str
    signature: dict[str, str]
    constexprs: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    archs: tuple[int, ...] = (80, 90)
    uses_dots: bool = True

    @property
    def key(self) -> str:
        """The kernel's name and this configuration's."""
        return f"{self.kernel.__name__} {self.name}"
