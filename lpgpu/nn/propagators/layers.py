"""Layers: what a kind of block must be able to do for its network to be propagated, forward and adjoint.

Layer indices here are those of the network, whichever level asks; K layers are visited in one call.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from copy import copy
from typing import Any, Self

from torch import Tensor

from lpgpu.kernels.dispatch import could_fuse
from lpgpu.kernels.picard import Runs
from lpgpu.kernels.sweep import NO_TERMS, Sweep, Terms
from lpgpu.mgrit.slices import parts_of
from lpgpu.nn.propagators.extended import HaloOf


class Linearisation(ABC):
    """∂Φ_k at the states of K layers, kept as long as it is of use."""

    @abstractmethod
    def vjp(self, lam: Tensor, out: Tensor) -> None:
        """out_k = (∂Φ_k/∂u)ᵀ λ_k; both [K, ...], not overlapping."""

    def diagonal(self, out: Tensor) -> None:
        """out_k = diag(∂Φ_k/∂u), where `Layers.has_diagonal`."""
        raise NotImplementedError(f"{type(self).__name__} has no closed formula for the Jacobian's diagonal")

    def decay(self, out: Tensor) -> None:
        """out_k = D_k at u_k, where `Layers.has_decay`."""
        raise NotImplementedError(f"{type(self).__name__} has no decay")

    def __getitem__(self, steps: slice) -> "Linearisation":
        """That of some of the K layers, where `Layers.is_sliceable`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be sliced")

    def sweep(self, lam: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        """March λ through `sweep` in one go, in place, where `Layers.fuses_sweeps`; arguments as for `Layers.sweep`."""
        raise NotImplementedError(f"{type(self).__name__} has no fused sweep")

    def picard(self, runs: Runs, order: int, lam: Tensor, out: Tensor) -> None:
        """Picard iterations of the transposed Jacobians, where `Layers.fuses_picard`.

        This linearisation is of `runs.layers`; all else as for `Layers.picard`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no fused Picard step")

    def picard_sweep(self, runs: Runs, order: int, lam: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        """March λ through a sweep of the runs, each step a Picard step, in place; as `Layers.picard_sweep`."""
        raise NotImplementedError(f"{type(self).__name__} has no fused Picard sweep")

    @abstractmethod
    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        """(∂Φ_k/∂θ)ᵀ λ_k for every parameter of the stack, [K, ...] each; None where it is not wanted.

        Last come those of the `Layers.num_shared` tensors that all layers share, summed over the K layers.
        """


class Layers(ABC):
    """A stack of layers with parameters θ_k, [layers, ...], and their step Δt.

    `has_diagonal`: the Jacobian's diagonal is a closed formula here. `has_decay`: Φ_k is D_k ⊙ u and a rest, with a D_k
    of its own, the decay of a gated cell. `preferred`: the coarse operator, and its order, that suits trained layers of
    this kind best; `prefers_delta`: a rediscretised one is better with Δ-correction. `is_sliceable`: a linearisation of
    many layers can be sliced. `is_free_at_zero`: `at_zero` costs no product, as the gates of a cell take none at h = 0.
    `num_shared`: of how many tensors that are the same for all layers there are gradients too.
    `width`: how many layers to evaluate at a time at most, where memory is to be saved; None: all that are asked for.
    `to_be_checked`: set where a gradient may follow, for what would go wrong in it to be refused in the forward.
    """

    to_be_checked = False
    width: int | None = None
    has_diagonal = False
    has_decay = False
    preferred: tuple[str, int] = ("rediscretised", 1)
    prefers_delta = False
    num_shared = 0
    is_sliceable = False
    is_free_at_zero = False

    dt: float

    @property
    def signature(self) -> Hashable | None:
        """What decides, beside the tensors, which operations run; None where that is not known (an arbitrary block)."""
        return None

    def hold(self) -> None:  # noqa: B027
        """Keep the weights' memory that there is now, whatever their `.data` becomes before backward."""

    def coarsened(self, m: int) -> Self:
        """The rediscretised layers of a coarser grid: the same θ_k, with the step m Δt."""
        coarse = copy(self)
        coarse.dt = m * self.dt
        return coarse

    def parts(self, layers: slice) -> Iterator[tuple[slice, slice]]:
        """The K layers, at most `width` of them at a time, and their rows among the K."""
        return parts_of(layers, self.width)

    def update_statistics(self, layers: slice, u: Tensor) -> None:
        """Take the states u_k that a forward solve ended with into account in running statistics."""
        raise NotImplementedError(f"{type(self).__name__} keeps no running statistics")

    @property
    def keeps_statistics(self) -> bool:
        """Whether a forward updates running statistics of its layers."""
        return False

    @abstractmethod
    def advance(
        self,
        layers: slice,
        u: Tensor,
        out: Tensor,
        *,
        keep: bool = False,
        diagonal: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> Any:
        """out_k = Φ_k(u_k); both [K, ...], not overlapping. `diagonal` becomes diag(∂Φ_k/∂u) at u_k, `decay` D_k there.

        May return what `linearise` would otherwise have to evaluate again, a sequence over the K layers, if `keep` asks
        for it and the kind of layer has such a thing; else None.
        """

    def at_zero(self, layers: slice, out: Tensor, diagonal: Tensor) -> None:
        """out_k = Φ_k(0), and diagonal = diag(∂Φ_k/∂u) there, where `is_free_at_zero`."""
        raise NotImplementedError(f"{type(self).__name__} has no formula at zero")

    @abstractmethod
    def linearise(self, layers: slice, u: Tensor, kept: Any = None) -> Linearisation:
        """∂Φ_k at u_k; `kept` is what `advance` returned for these layers and states, if it was kept."""

    def linearise_once(self, layers: slice, u: Tensor) -> Linearisation:
        """As `linearise`, for one sweep only: what is cheaper to compute again than to store need not be stored."""
        return self.linearise(layers, u)

    def take_halo(self, halo_of: HaloOf) -> None:
        """Extend θ by those of the layers beyond this rank's own: `halo_of(θ [n, ...])` gives them, [h, ...]."""
        raise NotImplementedError(
            f'{type(self).__name__} cannot step through the layers of other ranks, as coarse_operator="picard" does; '
            "choose another operator, or supply take_halo"
        )

    def fuses_sweeps(self, like: Tensor) -> bool:
        """Whether `sweep`, here and of linearisations, is the way for states like `like`."""
        return False

    def sweep(self, layers: slice, u: Tensor, sweep: Sweep, terms: Terms = NO_TERMS) -> None:
        """March u [K + 1, ...] through `sweep` of the K layers in one go, in place."""
        raise NotImplementedError(f"{type(self).__name__} has no fused sweep")

    def fuses_picard(self, like: Tensor) -> bool:
        """Whether `picard` and `picard_sweep`, here and of linearisations, are the way for states like `like`."""
        return False

    def picard(self, runs: Runs, order: int, u: Tensor, out: Tensor) -> None:
        """out = what `order` Picard iterations over each run of layers make of u; both [runs, ...]."""
        raise NotImplementedError(f"{type(self).__name__} has no fused Picard step")

    def picard_sweep(self, runs: Runs, order: int, u: Tensor, sweep: Sweep, g: Tensor | None) -> None:
        """March u [runs + 1, ...] in place through a sweep of the runs, each step a Picard step; g [runs + 1, ...]."""
        raise NotImplementedError(f"{type(self).__name__} has no fused Picard sweep")

    def join(self, kept: Sequence[Any]) -> Any:
        """What `advance` kept of layers one by one, as if of all at once: to linearise them in one pass.

        None where that gains nothing. What is offered can be sliced.
        """
        return None

    def empty_states(self, points: int, like: Tensor) -> Tensor:
        """Uninitialised states [points, *like.shape], in the memory order this kind of layer is fastest in."""
        return like.new_empty(points, *like.shape)


def preferred_for(weights: Tensor) -> tuple[str, int]:
    """The coarse operator for layers with kernels: Picard, but where kernels are fused.

    On trained weights Picard of order 1 is the more accurate (docs/experiments/coarse_operators.md). Before its steps
    were fused a solve took 13 to 18 ms on an H100 where the rediscretised one took 0.6; fused it is not measured yet.
    """
    return ("rediscretised", 1) if could_fuse(weights) else ("picard", 1)
