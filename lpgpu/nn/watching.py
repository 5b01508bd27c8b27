"""A look at the solves of a network while it runs: `with watching(watcher): loss(net(x)).backward()`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from lpgpu.comm import Communicator
from lpgpu.mgrit import Propagator, SolveResult


@dataclass(frozen=True)
class ForwardSolve:
    """A forward solve of `num_steps` layers that has just ended, its states still there.

    `walked` layers more are walked one by one before and after it. `states()` are this rank's, [n + 1, ...], not to be
    written to; `communicator` has the ranks in marching order.
    """

    num_steps: int
    walked: int
    communicator: Communicator
    propagator: Propagator
    result: SolveResult
    states: Callable[[], Tensor]


Watcher = Callable[[ForwardSolve], Callable[[SolveResult], None] | None]
"""Hears of a forward solve; what it returns hears of the result of its adjoint, if that follows."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher of solves", default=None)


def tell_watcher(solve: ForwardSolve) -> Callable[[SolveResult], None] | None:
    """Let whoever watches here hear of a solve.

    Backward may run in a thread of its own, which no context reaches: hence what is to hear of the adjoint.
    """
    watcher = _watcher.get()
    return None if watcher is None else watcher(solve)


def is_watched() -> bool:
    """Whether anyone watches here."""
    return _watcher.get() is not None


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Let `watcher` hear of the solves that begin inside the `with` statement."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
