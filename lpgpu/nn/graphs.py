"""CUDA graphs of solves: the hundreds of launches that a solve is, recorded once and replayed as one.

A solve launches the same kernels each time, whatever the numbers in its tensors. Its first use runs as it is, which
compiles the kernels; at the second the forward, and likewise each adjoint, is recorded into a graph; from then on it is
replayed. What a replay reads:

    weights         where they are: an optimizer that changes them in place is seen by the next replay
    other tensors   (the input, the loss's gradient) copied into the graph's own

and what it returns is copied out of the graph, so that nothing is written to twice. A graph is of one shape, one
solver, one place of the weights and all else in its key. Until its backward has run, or its result is dropped, a
recorded forward belongs to that call: meanwhile another call of the same key gets a recording of its own.
"""

import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lpgpu.kernels import dispatch
from lpgpu.kernels.cuda import choice
from lpgpu.kernels.precision import get_precision, library_precisions
from lpgpu.mgrit import SolveResult
from lpgpu.mgrit.convergence import Diagnosis, recorded_diagnoses, speak_of
from lpgpu.nn.recorder import CudaGraphs, Recorder

Outputs = tuple[Tensor | None, ...]
Run = Callable[..., tuple[Any, Outputs, SolveResult]]  # (tensors) → what backward needs, outputs, the result

LIMIT = 8  # recordings of one network: each holds the states of a solve
_WORTH = 4  # replays by which a recording has paid
_REMEMBERED = 256  # keys whose uses are counted


class GraphWarning(RuntimeWarning):
    """A solve cannot be recorded into a CUDA graph, and runs without one."""


@dataclass(frozen=True, eq=False)
class _Recording:
    """A recorded run: where its inputs go, how it is replayed, and what is then there."""

    inputs: Outputs
    replay: Callable[[], None]
    state: Any
    outputs: Outputs
    result: SolveResult
    diagnoses: list[Diagnosis]

    @classmethod
    def of(cls, recorder: Recorder, run: Run, inputs: Sequence[Tensor | None]) -> "_Recording":
        own = tuple(None if t is None else t.detach().clone() for t in inputs)
        with recorded_diagnoses() as diagnoses:
            replay, (state, outputs, result) = recorder.record(lambda: run(*own))
        return cls(own, replay, state, outputs, result, diagnoses)

    def __call__(self, inputs: Sequence[Tensor | None]) -> tuple[Outputs, SolveResult]:
        """Copies of the outputs for these inputs, and the result."""
        for own, given in zip(self.inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self.replay()
        for diagnosis in self.diagnoses:
            speak_of(diagnosis)
        return tuple(None if t is None else t.clone() for t in self.outputs), _kept(self.result)


@dataclass(eq=False)
class _Slot:
    """A recorded forward and its adjoints, which one solve at a time may have."""

    forward: _Recording
    adjoints: dict[Hashable, _Recording] = field(default_factory=dict)
    holder: "weakref.ref[Solve] | None" = None
    replays: int = 0

    @property
    def is_free(self) -> bool:
        return self.holder is None or self.holder() is None


@dataclass(frozen=True, eq=False)
class Solve:
    """A forward solve that has been done: what its adjoint needs, and its slot where it was replayed."""

    state: Any
    graphs: "Graphs | None" = None
    key: Hashable = None
    slot: _Slot | None = None
    strict: bool = False

    @property
    def is_replayed(self) -> bool:
        """Whether it was, so that its outputs are copies."""
        return self.slot is not None

    def adjoint(self, run: Run, gradients: Sequence[Tensor | None], wanted: Hashable) -> tuple[Outputs, SolveResult]:
        """`run(state, *gradients)`, the adjoint solve, replayed where the forward was and this is not its first use.

        `wanted` says, beside the gradients' shapes, what `run` does.
        """
        if self.graphs is None:
            _, outputs, result = run(self.state, *gradients)
            return outputs, result
        return self.graphs._adjoint(self, run, gradients, wanted)


class Graphs:
    """The graphs of one network. A copy of the network, or one that was pickled, starts without any.

    Attributes:
        recorded, replayed: how many recordings were made, and replays.
        refusals: for each key that could not be recorded, why.
    """

    def __init__(self, recorder: Recorder | None = None, limit: int = LIMIT) -> None:
        self.recorder = recorder or CudaGraphs()
        self.limit = limit
        self.recorded = self.replayed = self._wasted = 0
        self.refusals: dict[Hashable, str] = {}
        self._slots: list[tuple[Hashable, _Slot]] = []  # the latest used last
        self._uses: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: dict) -> "Graphs":
        return Graphs(limit=self.limit)

    def __reduce__(self) -> tuple:
        return Graphs, ()

    def forward(
        self,
        run: Run,
        moving: Sequence[Tensor | None],
        fixed: Sequence[Tensor | None],
        what: Hashable,
        *,
        strict: bool = False,
    ) -> tuple[Solve, Outputs, SolveResult]:
        """`run(*moving)`, recorded or replayed where this is not its first use.

        `fixed` are the weights that it reads where they are; `what` says all else that it depends on. `strict`: what
        cannot be recorded is an error, else a warning.

        Raises:
            RuntimeError: the one that recording ended with, under `strict`.
        """
        if self.recorder.is_recording():
            state, outputs, result = run(*moving)
            return Solve(state), outputs, result
        device = next(t.device for t in moving if t is not None)
        key = what, _surroundings(device), _described(moving), _described(fixed, places=True)
        solve = self._leased(key, run, moving, strict)
        if solve is None or solve.slot is None:
            state, outputs, result = run(*moving)
            return Solve(state, self, key, strict=strict), outputs, result
        outputs, result = solve.slot.forward(moving)
        self.replayed += 1
        return solve, outputs, result

    def _adjoint(
        self, solve: Solve, run: Run, gradients: Sequence[Tensor | None], wanted: Hashable
    ) -> tuple[Outputs, SolveResult]:
        which = wanted, _described(gradients)
        key, adjoints = (solve.key, which), {} if solve.slot is None else solve.slot.adjoints
        if which not in adjoints and self._is_due(key) and solve.slot is not None:
            recording = self._recording(key, lambda *given: run(solve.state, *given), gradients, solve.strict)
            if recording is not None:
                adjoints[which] = recording
        if which not in adjoints:
            _, outputs, result = run(solve.state, *gradients)
            return outputs, result
        self.replayed += 1
        return adjoints[which](gradients)

    def _leased(self, key: Hashable, run: Run, moving: Sequence[Tensor | None], strict: bool) -> Solve | None:
        """A solve with a slot of its own, recorded now if need be; None where it must run as it is."""
        with self._lock:
            slot = next((slot for of, slot in self._slots if of == key and slot.is_free), None)
            if slot is None:
                due = self._is_due(key) and self._has_room()
                recording = self._recording(key, run, moving, strict) if due else None
                if recording is None:
                    return None
                slot = _Slot(recording)
            else:
                self._slots.remove((key, slot))
            self._slots.append((key, slot))
            slot.replays += 1
            solve = Solve(slot.forward.state, self, key, slot, strict)
            slot.holder = weakref.ref(solve)
            return solve

    def _is_due(self, key: Hashable) -> bool:
        """Counts a use; whether this is the second or a later one, and recording it was not refused before."""
        if len(self._uses) > _REMEMBERED:
            self._uses.clear()
        self._uses[key] += 1
        return self._uses[key] > 1 and key not in self.refusals

    def _has_room(self) -> bool:
        """Whether one more recording may be made, if need be in the place of the one unused for longest.

        Where recordings go before they have paid (sequences of ever other lengths) no more are made in place of others.
        """
        if len(self._slots) < self.limit:
            return True
        free = next((each for each in self._slots if each[1].is_free), None)
        if free is None or self._wasted > self.limit:
            return False
        self._wasted += free[1].replays < _WORTH
        self._slots.remove(free)
        return True

    def _recording(self, key: Hashable, run: Run, inputs: Sequence[Tensor | None], strict: bool) -> _Recording | None:
        try:
            recording = _Recording.of(self.recorder, run, inputs)
        except Exception as error:
            if strict:
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.refusals[key] = reason
            warnings.warn(
                f"this solve cannot be recorded into a CUDA graph and runs without one: {reason}",
                GraphWarning,
                stacklevel=2,
            )
            return None
        self.recorded += 1
        return recording


def _kept(result: SolveResult) -> SolveResult:
    """The result, with its norms where the next replay does not reach them."""
    final = result.final_squared_norm
    norms = [*result.squared_norms, *([] if final is None else [final])]
    if not norms:
        return result
    own = torch.stack(norms).unbind()
    return replace(
        result, squared_norms=own[: len(result.squared_norms)], final_squared_norm=None if final is None else own[-1]
    )


def _surroundings(device: torch.device) -> Hashable:
    """What is set for the whole process or thread and changes what is launched, or where."""
    matmul = torch.backends.cuda.matmul
    return (
        device,
        torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None,
        dispatch.current_backend(),
        choice.where(),
        get_precision(),
        torch.are_deterministic_algorithms_enabled(),
        library_precisions(),
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
        torch.is_inference_mode_enabled(),
    )


def _described(tensors: Sequence[Tensor | None], *, places: bool = False) -> Hashable:
    """Shapes, strides, dtypes and devices of tensors, and with `places` where they lie."""
    return tuple(
        None if t is None else (t.shape, t.stride(), t.dtype, t.device, t.data_ptr() if places else None)
        for t in tensors
    )
