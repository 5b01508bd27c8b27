"""One step of a one-step scheme for u′ = f(t, u): explicit Euler, the midpoint rule, the classical Runge–Kutta rule."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from lpgpu.nn.packing import Packing

Field = Callable[[Any, Tensor], Tensor]
Scheme = Literal["euler", "midpoint", "rk4"]
Form = Literal["rhs", "step", "residual"]


def euler(f: Field, t: Any, dt: float, u: Tensor) -> Tensor:
    """u + Δt f(t, u): order 1."""
    return u + dt * f(t, u)


def midpoint(f: Field, t: Any, dt: float, u: Tensor) -> Tensor:
    """u + Δt f(t + Δt/2, u + Δt/2 f(t, u)): order 2."""
    return u + dt * f(t + dt / 2, u + dt / 2 * f(t, u))


def rk4(f: Field, t: Any, dt: float, u: Tensor) -> Tensor:
    """The classical four-stage rule: order 4."""
    k1 = f(t, u)
    k2 = f(t + dt / 2, u + dt / 2 * k1)
    k3 = f(t + dt / 2, u + dt / 2 * k2)
    k4 = f(t + dt, u + dt * k3)
    return u + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


SCHEMES: dict[str, Callable[[Field, Any, float, Tensor], Tensor]] = {"euler": euler, "midpoint": midpoint, "rk4": rk4}

FORMS = {
    "rhs": "the block is f(u)",
    "step": "it is Φ(dt, u)",
    "residual": "it returns u_{k+1}, as the blocks of a residual network do",
}


@dataclass(frozen=True)
class StepRule:
    """How a block becomes Φ_k: `form` says what it returns, `scheme` integrates f, `timed` blocks take t first."""

    form: str
    scheme: str
    timed: bool

    @classmethod
    def of(cls, block: nn.Module, form: str, scheme: str) -> "StepRule":
        """The rule of `block`, which is `timed` when the first argument of its forward is called t."""
        return cls(form, scheme, next(iter(inspect.signature(block.forward).parameters), None) == "t")

    def next_state(self, block: Callable[..., Tensor], t: Any, dt: float, spans: int, u: Tensor) -> Tensor:
        """Φ(u) at time t with step Δt, which spans so many layers; `block` takes t if timed, Δt if a step, and u.

        A residual block is one step of u′ = (block(u) − u)/Δt: over s layers it is u + s (block(u) − u).
        """

        def f(t: Any, u: Tensor) -> Tensor:
            return block(t, u) if self.timed else block(u)

        if self.form == "rhs":
            return SCHEMES[self.scheme](f, t, dt, u)
        if self.form == "step":
            return block(t, dt, u) if self.timed else block(dt, u)
        return f(t, u) if spans == 1 else u + spans * (f(t, u) - u)


class Step(nn.Module):
    """One layer as a module of its own: Φ_k of a block, at time `t` with step `dt`."""

    def __init__(self, block: nn.Module, dt: float, scheme: str, form: str, t: float = 0.0) -> None:
        super().__init__()
        self.block = block
        self.dt = dt
        self.scheme = scheme
        self.form = form
        self.t = t

    def forward(self, u: Any, *args: Any, **kwargs: Any) -> Any:
        """The next state, like `u`; `args` and `kwargs` go to the block."""
        packing = None if isinstance(u, Tensor) else Packing.of(u, "u")
        state = u if packing is None else packing.pack(u)

        def block(*leading: Any) -> Tensor:
            *before, state = leading
            if packing is None:
                out = self.block(*before, state, *args, **kwargs)
                return out[0] if self.form == "residual" and isinstance(out, tuple) else out
            return packing.pack(self.block(*before, packing.unpack(state), *args, **kwargs))

        rule = StepRule.of(self.block, self.form, self.scheme)
        after = rule.next_state(block, state.new_tensor(self.t) if rule.timed else 0.0, self.dt, 1, state)
        return after if packing is None else packing.unpack(after)

    def extra_repr(self) -> str:
        return f"dt={self.dt}, " + (f"scheme={self.scheme!r}" if self.form == "rhs" else f"form={self.form!r}")


class Steps(nn.Sequential):
    """Steps one after another; what a call has besides u reaches each of them."""

    def forward(self, u: Any, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The last state, like `u`."""
        for step in self:
            u = step(u, *args, **kwargs)
        return u
