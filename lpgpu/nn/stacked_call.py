"""One call of a stack of layers as differentiable operations: a solve, and layers walked one by one at both ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Self, TypeVar

from torch import Tensor, nn

from lpgpu.comm import Communicator
from lpgpu.comm.communicator import SingleProcess
from lpgpu.mgrit import Serial
from lpgpu.nn.autograd import OfRank, PropagateEnd, ToRank
from lpgpu.nn.call import Call
from lpgpu.nn.graphs import Graphs
from lpgpu.nn.propagation import Propagation
from lpgpu.nn.propagators import Layers, general_layers_of, layers_of
from lpgpu.nn.propagators.functional import FunctionalLayers

T = TypeVar("T", bound=Layers)


@dataclass(frozen=True)
class StackedCall:
    """What a call computes with: the stacked parameters θ by name, tensors for each layer, and tensors for all.

    `scheme`, `form` and `dt` say what a step is; `differentiable`: a gradient may follow.
    """

    stack: nn.Module
    scheme: str
    form: str
    dt: float
    theta: Mapping[str, Tensor]
    per_layer: Sequence[Tensor]
    shared: Sequence[Tensor]
    call: Call
    differentiable: bool

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, as the solve's operation takes them."""
        return (*self.theta.values(), *self.per_layer, *self.shared)

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """The calls of consecutive layers, so many each; the call itself where one has them all."""
        if max(sizes) == sum(sizes):
            empty = replace(self, theta={}, per_layer=(), shared=())
            return [self if size else empty for size in sizes]
        theta = zip(*(values.split(list(sizes)) for values in self.theta.values()), strict=True)
        theta = list(theta) or [()] * len(sizes)
        per_layer = list(zip(*(values.split(list(sizes)) for values in self.per_layer), strict=True))
        ends = [0, *accumulate(sizes)]
        return [
            replace(
                self,
                theta=dict(zip(self.theta, theta[i], strict=True)),
                per_layer=per_layer[i] if per_layer else (),
                call=replace(self.call, layers=self.call.layers[start:stop], rows=slice(start, stop)),
            )
            for i, (start, stop) in enumerate(pairwise(ends))
        ]

    def propagate(self, propagation: Callable[..., Propagation], sentinel: Tensor | None, u: Tensor) -> Tensor:
        """The last state, of the first one `u`; `propagation(plain=…, differentiable=…)` says how."""
        how = propagation(plain=self._plain, differentiable=self.differentiable, module=self.stack)
        return PropagateEnd.apply(how, lambda tensors: self._layers(layers_of, tensors, u), sentinel, u, *self.tensors)

    def walk(self, u: Tensor, graphs: Graphs) -> Tensor:
        """The last state, exactly, layer after layer, on this process alone."""
        propagation = partial(
            Propagation,
            num_steps=len(self.call.layers),
            partition=None,
            solver=Serial(cuda_graph=False),
            communicator=SingleProcess(),
            forward_done=lambda result: None,
            adjoint_done=lambda result: None,
            graphs=graphs,
            is_told=False,
        )
        return self.propagate(propagation, None, u)

    def _layers(self, make: Callable[..., T], tensors: Sequence[Tensor], like: Tensor, **of_call: Any) -> T:
        """The layers of these tensors, for states like `like`; `of_call` replaces what the call says."""
        theta, extra = dict(zip(self.theta, tensors, strict=False)), tensors[len(self.theta) :]
        count = len(self.per_layer)
        call = replace(self.call, arguments=self.call.arguments.holding(extra[count:], extra[:count]), **of_call)
        layers = make(self.stack, theta, like, self.scheme, self.form, self.dt, call)
        layers.to_be_checked = self.differentiable
        return layers

    def _plain(self, u_0: Tensor, *tensors: Tensor) -> Tensor:
        has_kernels = not isinstance(self._layers(layers_of, tensors, u_0), FunctionalLayers)
        precision = {"autocast": None} if has_kernels else {}
        layers, u = self._layers(general_layers_of, tensors, u_0, **precision), u_0[None]
        for k in range(len(self.call.layers)):
            u = layers.differentiable(slice(k, k + 1), u)
        return u[0]


def walked_and_solved(
    call: StackedCall,
    sections: Sequence[int],
    buffer: tuple[int, int],
    solve: Callable[..., Propagation],
    communicator: Communicator,
    sentinel: Tensor | None,
    u: Tensor,
    graphs: Graphs,
) -> Tensor:
    """The last state of a network whose first and last layers, `buffer`, are walked one by one, and the others solved.

    `sections` are this rank's layers in each of the three parts.
    """
    opening, between, closing = call.split(sections)
    first, last = buffer
    if first:
        u = _walked_on(0, lambda u: opening.walk(u, graphs), communicator, sentinel, u)
    u = between.propagate(solve, sentinel, u)
    if last:
        u = _walked_on(communicator.size - 1, lambda u: closing.walk(u, graphs), communicator, sentinel, u)
    return u


def _walked_on(
    rank: int, walk: Callable[[Tensor], Tensor], communicator: Communicator, sentinel: Tensor | None, u: Tensor
) -> Tensor:
    """`walk(u)` by one rank, whose result and gradient all ranks get. Collective, in backward too."""
    if communicator.size == 1:
        return walk(u)
    u = ToRank.apply(communicator, rank, sentinel, u)
    walked: list[Any] = [u]

    def here() -> None:
        walked[0] = walk(u)

    communicator.agree(here if communicator.rank == rank else lambda: None, dict)
    return OfRank.apply(communicator, rank, sentinel, walked[0])
