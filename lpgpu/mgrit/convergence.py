"""When a solve is done, and what is said when it went wrong.

On a GPU nothing here waits for the device, unless a tolerance asks to: the diagnosis of a solve is copied to the host
in the background and spoken at the next solve.
"""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.mgrit.exchange import global_sum
from lpgpu.mgrit.states import States


class DivergenceWarning(RuntimeWarning):
    """A solve ended with non-finite states, or with a residual that grew or is as large as its states."""


class DivergenceError(ArithmeticError):
    """As DivergenceWarning, where `on_divergence="raise"` asked for an error."""


class Stopping:
    """Collects this rank's ‖r‖² and says when ‖r‖ ≤ tolerance · ‖r⁰‖; without a tolerance never, and without looking.

    `squared_norms` are this rank's parts. The decision is of their sums over ranks, so it is the same on all.
    """

    def __init__(self, tolerance: float | None, communicator: Communicator) -> None:
        self.tolerance = tolerance
        self.communicator = communicator
        self.squared_norms: list[Tensor] = []
        self.converged: bool | None = None if tolerance is None else False
        self._first: Tensor | None = None

    def __call__(self, squared_norm: Tensor) -> bool:
        self.squared_norms.append(squared_norm)
        if self.tolerance is not None:
            total = global_sum(self.communicator, squared_norm)
            self._first = total if self._first is None else self._first
            self.converged = bool(total <= self.tolerance**2 * self._first)
        return bool(self.converged)


@dataclass(frozen=True)
class Diagnosis:
    """What a finished solve shows: its ‖r‖² history, then ‖u‖² at the C-points and at the end; `ready` on the host?

    Of an adjoint that may raise, ‖·‖² of the gradients that it was given come last, `tells_given`.
    """

    figures: Tensor
    num_norms: int
    eps: float
    what: str
    on_divergence: str
    ready: Callable[[], bool]
    tells_given: bool = False

    def speak(self) -> None:
        figures = self.figures.tolist()
        if self.tells_given and not math.isfinite(figures.pop()):
            warnings.warn(_GIVEN, DivergenceWarning, stacklevel=2)
            return
        history = [math.sqrt(squared) if squared >= 0 else math.nan for squared in figures[: self.num_norms]]
        of_states = figures[self.num_norms :]
        if not all(map(math.isfinite, figures)):
            self._say("has non-finite states", history)
            return
        if len(history) < 2:
            return  # a first residual is the initial guess's, and says nothing of a reduction
        norm = math.sqrt(of_states[0])
        if history[-1] > norm / 2:
            self._say("diverges: its residual is as large as its states", history)
        elif history[-1] > max(history[0], 10 * self.eps * norm):
            self._say("diverges: its residual grew", history)  # and is not down to rounding, where changes mean nothing
        elif history[-1] > max(history[0] / 2, norm / 100):
            self._say("hardly converges: its residual was not halved, and is above a hundredth of its states", history)

    def _say(self, finding: str, history: list[float]) -> None:
        norms = ", ".join(f"{norm:.3e}" for norm in history) or "none taken"
        message = (
            f"the {self.what} solve {finding} (residual norms before each cycle: {norms}). More iterations, a smaller "
            "coarsening, fewer levels or a smaller Tf may cure it; solver=Serial() propagates exactly"
        )
        if self.on_divergence == "raise":
            raise DivergenceError(message)
        warnings.warn(message, DivergenceWarning, stacklevel=2)


_GIVEN = (
    "the adjoint solve was given gradients that are not finite, as of a loss that was scaled too far: the solver has "
    "no part in it, and GradScaler skips such a step"
)

_pending: deque[Diagnosis] = deque(maxlen=64)
_recorded: ContextVar[list[Diagnosis] | None] = ContextVar("recorded diagnoses", default=None)


def diagnose(
    squared_norms: list[Tensor],
    states: States,
    communicator: Communicator,
    *,
    what: str,
    on_divergence: str,
    g: Tensor | None = None,
) -> list[Tensor]:
    """The ‖r‖² of all ranks, from this rank's `squared_norms`.

    Reports a solve whose states are non-finite or whose residual grew, on every rank; on one GPU, at the next call
    after it is known. An adjoint whose start or right-hand side `g` was not finite is no divergence: of it there is a
    warning only. A solve that is recorded into a CUDA graph is left to whoever replays it: `recorded_diagnoses`.

    Raises:
        DivergenceError: when that is so and `on_divergence` is "raise".
    """
    grid = states.grid
    of_states = [states.c_points[grid.owned_c_points], states.end if grid.ends else states.u[:0]]
    squares = [torch.linalg.vector_norm(each, dtype=torch.float64).square() for each in of_states]
    tells_given = what == "adjoint" and on_divergence == "raise"
    given = [_given(states, g)] if tells_given else []
    figures = global_sum(communicator, torch.stack([*squared_norms, *squares, *given]))
    eps = torch.finfo(states.u.dtype).eps
    recorded = is_captured(states.u)
    if recorded and (diagnoses := _recorded.get()) is not None:
        diagnoses.append(Diagnosis(figures, len(squared_norms), eps, what, on_divergence, lambda: True, tells_given))
    if states.u.shape[1:].numel() and not recorded:  # an empty batch shows nothing
        alone = communicator.size == 1  # else all ranks must raise an error at the same call
        host, ready = _to_host(figures) if alone else (figures.cpu(), lambda: True)
        diagnosis = Diagnosis(host, len(squared_norms), eps, what, on_divergence, ready, tells_given)
        if ready():  # at once, whatever is pending: a solve on a CPU speaks for itself, in its own thread
            diagnosis.speak()
        else:
            _pending.append(diagnosis)
        if alone:
            speak_pending()
    return list(figures[: len(squared_norms)])


def _given(states: States, g: Tensor | None) -> Tensor:
    """‖·‖² of what a solve starts from, where it starts, and of its right-hand side."""
    parts = [states.start if states.grid.begins else states.u[:0], *([] if g is None else [g])]
    return torch.stack([torch.linalg.vector_norm(each, dtype=torch.float64) for each in parts]).square().sum()


@contextmanager
def recorded_diagnoses() -> Iterator[list[Diagnosis]]:
    """Within it: the diagnoses of solves that are recorded into a CUDA graph, for `speak_of` after every replay."""
    diagnoses: list[Diagnosis] = []
    token = _recorded.set(diagnoses)
    try:
        yield diagnoses
    finally:
        _recorded.reset(token)


def speak_of(recorded: Diagnosis) -> None:
    """Report what a recorded solve has shown in the replay that was just launched, once it is known.

    Raises:
        DivergenceError: as `diagnose`.
    """
    host, ready = _to_host(recorded.figures)
    _pending.append(replace(recorded, figures=host, ready=ready))
    speak_pending()


def speak_pending(*, wait: bool = False) -> None:
    """Report what the solves so far have shown; `wait` for those still running on a GPU."""
    while _pending and (wait or _pending[0].ready()):
        if wait and _pending[0].figures.is_pinned():
            torch.cuda.synchronize()
        _pending.popleft().speak()


def is_captured(u: Tensor) -> bool:
    """Whether what runs now is recorded into a CUDA graph."""
    return u.is_cuda and torch.cuda.is_current_stream_capturing()


def _to_host(figures: Tensor) -> tuple[Tensor, Callable[[], bool]]:
    if figures.device.type != "cuda":
        return figures.cpu(), lambda: True
    host = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
    host.copy_(figures, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event.query
