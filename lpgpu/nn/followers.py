"""What stands in the places of blocks that the first of their run has propagated: it passes the state on.

A model's own forward goes through all its blocks. Where it hands the state of one to the next and does nothing else,
all can be propagated at once, where the first one stood. Anything else that it does there would be lost without a word:
so a follower looks at what it is called with, and refuses.
"""

import warnings
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from lpgpu.nn.arguments import PerLayer
from lpgpu.nn.called import version
from lpgpu.nn.eager import eager
from lpgpu.nn.layer_index import INDICES
from lpgpu.nn.stacking import refuse_to_reset

_PASSED = "_lpgpu_passed"  # on the tensors of a state: their call, the block that they left, their version then
_STATE = object()  # in the place of such a tensor
_TOGETHER = (
    "A run of blocks is propagated together, where the first of them stands. Leave blocks that are treated apart out "
    "of it, by parallelize(..., buffer=(first, last)), or unparallelize the model"
)


class RunCall:
    """One call of a run of blocks: how the first one was called, and what it returned beside the state."""

    def __init__(self, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        leaves, self._spec = tree_flatten(out)
        self._leaves = [_STATE if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._arguments = tree_flatten((tuple(args), kwargs))
        self._left: list[weakref.ref[Tensor]] = []
        self._open = ""  # the name of a block that was called while others are still to come

    def __del__(self) -> None:
        if self._open:
            warnings.warn(
                f"the model went no further than {self._open}, but the state that it has there is that after the last "
                f"block of the run. {_TOGETHER}",
                stacklevel=2,
            )

    def reached(self, name: str, *, to_come: int) -> None:
        """A block called `name` was called, and `to_come` are still to come."""
        self._open = name if to_come else ""

    def returned(self, state: Iterable[Tensor], place: int) -> Any:
        """What block `place` returns: as the first did, with tensors of its own, which know where they come from."""
        new = [tensor.view_as(tensor) for tensor in state]
        for tensor in new:
            setattr(tensor, _PASSED, (self, place, version(tensor)))
        self._left.extend(map(weakref.ref, new))
        values = iter(new)
        return tree_unflatten([next(values) if leaf is _STATE else leaf for leaf in self._leaves], self._spec)

    def has_arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Whether the first block had these."""
        leaves, spec = tree_flatten((tuple(args), kwargs))
        return spec == self._arguments[1] and all(map(_same, leaves, self._arguments[0]))

    def keeps_others(self, state: Sequence[Tensor]) -> bool:
        """Whether anyone holds the state that a block has left, beside the latest, `state`."""
        alive = [tensor for left in self._left if (tensor := left()) is not None]
        return any(all(tensor is not latest for latest in state) for tensor in alive)


class Follower(nn.Module):
    """Block `place` of a run of `count`, called `name` in its model; `first` has propagated it.

    What a model asks a block for, an attribute or a submodule, is answered by the first one.
    """

    def __init__(self, first: nn.Module, place: int, count: int, name: str) -> None:
        super().__init__()
        self._first = (first,)  # no submodule
        self._place, self._count, self._name = place, count, name

    @eager
    def forward(self, u: Any, *args: Any, **kwargs: Any) -> Any:
        """What the block returns, of the state that the one before it returned.

        Raises:
            RuntimeError: for another state, for other arguments than those of the first block, and for a model that
                keeps the states between blocks.
        """
        state = [leaf for leaf in tree_leaves(u) if isinstance(leaf, Tensor)]
        marks = [getattr(tensor, _PASSED, (None, None, None)) for tensor in state]
        calls = {id(call): call for call, *_ in marks}
        passed = [(place, was) for _, place, was in marks]
        (call,) = calls.values() if len(calls) == 1 else (None,)
        if call is None or passed != [(self._place - 1, version(tensor)) for tensor in state]:
            raise RuntimeError(
                f"{self._name} is called with another state than the block before it returned: the model skips blocks, "
                f"or computes something between them. {_TOGETHER}"
            )
        call.reached(self._name, to_come=0)  # where this is refused, too
        if not call.has_arguments(args, kwargs):
            raise RuntimeError(
                f"{self._name} is called with other arguments than the first block of its run. What differs from block "
                f"to block must come to all of them, as PerLayer(values). {_TOGETHER}"
            )
        if self._place + 1 == self._count and call.keeps_others(state):
            raise RuntimeError(
                f"the model keeps the states between its blocks up to {self._name}, which no block has computed by "
                f"itself: turn off what collects them, such as output_hidden_states. {_TOGETHER}"
            )
        call.reached(self._name, to_come=self._count - 1 - self._place)
        return call.returned(state, self._place)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(vars(self)["_first"][0], name)
            if value is refuse_to_reset:
                raise
            return value + self._place if name in INDICES and isinstance(value, int) else value

    def extra_repr(self) -> str:
        return f"propagated {self._place} blocks before"


def _same(a: Any, b: Any) -> bool:
    """Whether an argument is what the first block got."""
    if isinstance(a, PerLayer) and isinstance(b, PerLayer):
        a, b = a.values, b.values
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
            return False
        return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:  # of an __eq__ that says nothing
        return False
