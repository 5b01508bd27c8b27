"""What every propagated module has: a solver that may be exchanged, and a precision of its own."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lpgpu.comm import Communicator
from lpgpu.mgrit import MGRIT, Serial, Solver, SolveResult
from lpgpu.nn.block_precision import own_precision, taken_back
from lpgpu.nn.eager import eager
from lpgpu.nn.graphs import Graphs


class SolveResults(NamedTuple):
    """The latest solves of a network: one of each kind, or one for each of its layers and directions; None: not yet."""

    forward: tuple[SolveResult | None, ...]
    adjoint: tuple[SolveResult | None, ...]


class SolverModule(nn.Module):
    """A module with a solver, checked when it is assigned.

    Under torch.autocast it takes what autocast has made of its input, and its states stay in the precision of its
    parameters: a state rounded to bf16 would stop a solve from converging at bf16's rounding. Cells, and blocks of a
    LayerParallel that have no kernels of their own, compute their products as autocast says; DenseBlock and ConvBlock
    in the parameters' precision. A GRU on a GPU keeps its states in autocast's precision too, as its kernels take
    tensors of one dtype. To propagate in bf16 altogether, `.to(torch.bfloat16)` it.
    """

    _communicator: Communicator

    @property
    def solver(self) -> Solver:
        """MGRIT(...), Parareal(...) or Serial(), which propagates; may be assigned between calls.

        Raises:
            TypeError: when assigned anything else.
        """
        return self._solver

    @solver.setter
    def solver(self, solver: Solver) -> None:
        if not isinstance(solver, MGRIT | Serial):
            raise TypeError(f"solver is {solver!r}; expected an MGRIT(...), Parareal(...) or Serial()")
        self._solver = solver

    @property
    def results(self) -> SolveResults:
        """Its latest solves in both directions, in the order of the forward ones."""
        raise NotImplementedError

    @property
    def graphs(self) -> Graphs:
        """The CUDA graphs that its solves are replayed from."""
        return self.__dict__.setdefault("_graphs", Graphs())

    @eager
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """As every module's, outside of autocast and inference mode.

        Raises:
            NotImplementedError: while torch.export or torch.jit.trace record the call.
        """
        _refuse_recording(self)
        if not torch.is_inference_mode_enabled():
            return self._in_own_precision(*arguments, **named)
        with torch.inference_mode(False), torch.no_grad():  # inference tensors do not tell when they are changed
            return self._in_own_precision(*arguments, **named)

    @eager
    def _call_impl(self, *arguments: Any, **named: Any) -> Any:
        """nn.Module's, so that `.compile()` of the module itself compiles nothing of a solve either."""
        return super()._call_impl(*arguments, **named)

    def _in_own_precision(self, *arguments: Any, **named: Any) -> Any:
        """The call, in the parameters' own precision."""
        of_layers: Tensor | None = next(self.parameters(), None)
        # autocast knows no device "meta", which the checks of the call refuse
        if of_layers is None or of_layers.is_meta or not torch.is_autocast_enabled(of_layers.device.type):
            return super().__call__(*arguments, **named)
        low = torch.get_autocast_dtype(of_layers.device.type)
        with own_precision(of_layers.device.type, low):
            arguments, named = self._as_own((arguments, named), of_layers.dtype, low)
            return super().__call__(*arguments, **named)

    def _as_own(self, given: Any, dtype: torch.dtype, low: torch.dtype) -> Any:
        """What came, with tensors of autocast's `low` as `dtype`, that of the parameters."""
        return taken_back(given, dtype, low)


def solver_modules(*networks: nn.Module) -> list[SolverModule]:
    """The parts of `networks` that a solver propagates, in order."""
    return [module for network in networks for module in network.modules() if isinstance(module, SolverModule)]


@contextmanager
def using_solver(parts: Iterable[SolverModule], solver: Solver | None) -> Iterator[None]:
    """Propagate all `parts` with `solver` inside the `with` statement, and each as before after it; None: as they are.

    Raises:
        TypeError: for what is no solver.
    """
    before = [(part, part.solver) for part in parts]
    try:
        for part, own in before:
            part.solver = own if solver is None else solver
        yield
    finally:
        for part, own in before:
            part.solver = own


def _refuse_recording(module: Any) -> None:
    """Raise where the call is not computed but recorded: the solve would be, with its number of steps and cycles."""
    recorder = (
        "torch.jit.trace" if torch.jit.is_tracing() else "torch.export" if torch.compiler.is_exporting() else None
    )
    if recorder is not None:
        raise NotImplementedError(
            f"{recorder} cannot record the solve of a {type(module).__name__}, which depends on its sizes and solver; "
            "give it the plain PyTorch of the same network instead: .to_sequential()"
        )
