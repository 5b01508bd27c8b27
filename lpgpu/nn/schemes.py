"""One step of a one-step scheme for u′ = f(u): explicit Euler, the midpoint rule, the classical Runge–Kutta rule."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

Field = Callable[[Tensor], Tensor]
Scheme = Literal["euler", "midpoint", "rk4"]


def euler(f: Field, dt: float, u: Tensor) -> Tensor:
    """u + Δt f(u): order 1."""
    return u + dt * f(u)


def midpoint(f: Field, dt: float, u: Tensor) -> Tensor:
    """u + Δt f(u + Δt/2 f(u)): order 2."""
    return u + dt * f(u + dt / 2 * f(u))


def rk4(f: Field, dt: float, u: Tensor) -> Tensor:
    """The classical four-stage rule: order 4."""
    k1 = f(u)
    k2 = f(u + dt / 2 * k1)
    k3 = f(u + dt / 2 * k2)
    k4 = f(u + dt * k3)
    return u + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


SCHEMES: dict[str, Callable[[Field, float, Tensor], Tensor]] = {"euler": euler, "midpoint": midpoint, "rk4": rk4}


class Step(nn.Module):
    """One layer as a module of its own: `scheme` applied to a block of `form` "rhs", or the block itself for "step"."""

    def __init__(self, block: nn.Module, dt: float, scheme: str, form: str) -> None:
        super().__init__()
        self.block = block
        self.dt = dt
        self.scheme = scheme
        self.form = form

    def forward(self, u: Tensor) -> Tensor:
        """The next state, of u's shape."""
        return self.block(self.dt, u) if self.form == "step" else SCHEMES[self.scheme](self.block, self.dt, u)

    def extra_repr(self) -> str:
        return f"dt={self.dt}, " + (f"scheme={self.scheme!r}" if self.form == "rhs" else "form='step'")
