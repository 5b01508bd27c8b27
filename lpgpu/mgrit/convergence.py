"""When a solve is done, and what is said when it went wrong.

On a GPU nothing here waits for the device, unless a tolerance asks to: the diagnosis of a solve is copied to the host
in the background and spoken at the next solve.
"""

import math
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lpgpu.mgrit.states import States


class DivergenceWarning(RuntimeWarning):
    """A solve ended with non-finite states, or with a residual that grew or is as large as its states."""


class DivergenceError(ArithmeticError):
    """As DivergenceWarning, where `on_divergence="raise"` asked for an error."""


class Stopping:
    """Collects ‖r‖² and says when ‖r‖ ≤ tolerance · ‖r⁰‖; without a tolerance never, and without looking."""

    def __init__(self, tolerance: float | None) -> None:
        self.tolerance = tolerance
        self.squared_norms: list[Tensor] = []
        self.converged: bool | None = None if tolerance is None else False

    def __call__(self, squared_norm: Tensor) -> bool:
        self.squared_norms.append(squared_norm)
        if self.tolerance is not None:
            self.converged = bool(squared_norm <= self.tolerance**2 * self.squared_norms[0])
        return bool(self.converged)


@dataclass(frozen=True)
class _Diagnosis:
    """What a finished solve shows: its ‖r‖² history, then the norms of u at the C-points and at the end."""

    figures: Tensor
    num_norms: int
    eps: float
    what: str
    on_divergence: str
    ready: Callable[[], bool]

    def speak(self) -> None:
        figures = self.figures.tolist()
        history = [math.sqrt(squared) if squared >= 0 else math.nan for squared in figures[: self.num_norms]]
        of_states = figures[self.num_norms :]
        if not all(map(math.isfinite, figures)):
            self._say("has non-finite states", history)
            return
        if len(history) < 2:
            return  # a first residual is the initial guess's, and says nothing of a reduction
        norm, _ = of_states
        if history[-1] > norm / 2:
            self._say("diverges: its residual is as large as its states", history)
        elif history[-1] > max(history[0], 10 * self.eps * norm):
            self._say("diverges: its residual grew", history)  # and is not down to rounding, where changes mean nothing

    def _say(self, finding: str, history: list[float]) -> None:
        norms = ", ".join(f"{norm:.3e}" for norm in history) or "none taken"
        message = (
            f"the {self.what} solve {finding} (residual norms before each cycle: {norms}). More iterations, a smaller "
            "coarsening, fewer levels or a smaller Tf may cure it; solver=Serial() propagates exactly"
        )
        if self.on_divergence == "raise":
            raise DivergenceError(message)
        warnings.warn(message, DivergenceWarning, stacklevel=2)


_pending: deque[_Diagnosis] = deque(maxlen=64)


def diagnose(squared_norms: list[Tensor], states: States, *, what: str, on_divergence: str) -> None:
    """Report a solve whose states are non-finite or whose residual grew; on a GPU, at the next call after it is known.

    Raises:
        DivergenceError: when that is so and `on_divergence` is "raise".
    """
    if not states.end.numel():
        return  # an empty batch shows nothing
    of_states = [torch.linalg.vector_norm(each, dtype=torch.float64) for each in (states.c_points, states.end)]
    figures = torch.stack([*squared_norms, *of_states])
    host, ready = _to_host(figures)
    eps = torch.finfo(states.u.dtype).eps
    _pending.append(_Diagnosis(host, len(squared_norms), eps, what, on_divergence, ready))
    speak_pending()


def speak_pending(*, wait: bool = False) -> None:
    """Report what the solves so far have shown; `wait` for those still running on a GPU."""
    while _pending and (wait or _pending[0].ready()):
        if wait and _pending[0].figures.is_pinned():
            torch.cuda.synchronize()
        _pending.popleft().speak()


def _to_host(figures: Tensor) -> tuple[Tensor, Callable[[], bool]]:
    if figures.device.type != "cuda":
        return figures.cpu(), lambda: True
    host = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
    host.copy_(figures, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event.query
