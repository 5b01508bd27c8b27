"""What a call of a network has besides its state: `net(x, *args, **kwargs)`, for every block.

Their tensors are of two kinds: the same for all layers (a mask, a conditioning), whose gradients are summed over the
layers; or, marked `PerLayer`, with a part for each. Everything else is handed on as it is.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten


class PerLayer:
    """`net(x, PerLayer(z))`: layer k gets z[k] of `z` [num_steps, ...], which all ranks pass whole.

    >>> class Scaled(nn.Module):
    ...     def forward(self, u, scale):
    ...         return scale * u
    >>> net = LayerParallel(None, Scaled, 3, 3.0, solver=Serial())  # Δt = 1: each step is u + scale·u
    >>> net(torch.ones(1), PerLayer(torch.tensor([0.0, 1.0, 2.0])))
    tensor([6.])
    """

    def __init__(self, values: Tensor) -> None:
        if not isinstance(values, Tensor):
            raise TypeError(f"PerLayer holds {type(values).__name__}; expected a tensor [num_steps, ...]")
        self.values = values


def with_tensors_mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`tree` of lists, tuples and dicts with `function` of its tensors, also those of a `PerLayer`."""

    def of_leaf(leaf: Any) -> Any:
        if isinstance(leaf, PerLayer):
            return PerLayer(function(leaf.values))
        return function(leaf) if isinstance(leaf, Tensor) else leaf

    return tree_map(of_leaf, tree)


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call, taken apart: leaves of a tree, where tensors are replaced when it is built again."""

    leaves: tuple[Any, ...]
    spec: TreeSpec

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Arguments":
        """Those of `net(x, *args, **kwargs)`."""
        leaves, spec = tree_flatten((args, kwargs))
        return cls(tuple(leaves), spec)

    @property
    def shared(self) -> tuple[Tensor, ...]:
        """The tensors that are the same for all layers."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Tensor))

    @property
    def per_layer(self) -> tuple[Tensor, ...]:
        """The tensors [num_steps, ...] with a part for each layer."""
        return tuple(leaf.values for leaf in self.leaves if isinstance(leaf, PerLayer))

    def built(self, shared: Sequence[Tensor], per_layer: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with these tensors in the places of those that came, `per_layer` of one layer."""
        return tree_unflatten(self._placed(shared, per_layer), self.spec)

    def holding(self, shared: Sequence[Tensor], per_layer: Sequence[Tensor]) -> "Arguments":
        """The same with these tensors in their places; `per_layer` are of any number of layers."""
        return Arguments(tuple(self._placed(shared, map(PerLayer, per_layer))), self.spec)

    def of_layer(self, layer: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) as layer `layer` of the whole network gets them."""
        return self.built(self.shared, [values[layer] for values in self.per_layer])

    def _placed(self, shared: Iterable[Any], per_layer: Iterable[Any]) -> Iterator[Any]:
        """The leaves, with these in the places of tensors and of `PerLayer`s."""
        of_all, of_layers = iter(shared), iter(per_layer)
        for leaf in self.leaves:
            if isinstance(leaf, Tensor):
                yield next(of_all)
            else:
                yield next(of_layers) if isinstance(leaf, PerLayer) else leaf

    def check(self, num_steps: int, like: Tensor) -> None:
        """Raise ValueError where a tensor is not on the state's device, or a `PerLayer` not of all layers."""
        for values in self.per_layer:
            if values.ndim < 1 or len(values) != num_steps:
                raise ValueError(
                    f"PerLayer holds {tuple(values.shape)}; expected [num_steps, ...], here ({num_steps}, ...)"
                )
        for tensor in (*self.shared, *self.per_layer):
            if tensor.device != like.device:
                raise ValueError(
                    f"an argument is on {tensor.device}, x is on {like.device}; move one of them with .to(...)"
                )

    def facts(self) -> str:
        """What must be the same of them on every rank."""

        def fact(leaf: Any) -> str:
            tensor = leaf.values if isinstance(leaf, PerLayer) else leaf
            if isinstance(tensor, Tensor):
                return (
                    f"{type(leaf).__name__} {tensor.dtype} {tuple(tensor.shape)} requires_grad={tensor.requires_grad}"
                )
            return repr(leaf) if isinstance(leaf, bool | int | float | str | None) else type(leaf).__name__

        return f"({', '.join(map(fact, self.leaves))}) in {self.spec}"


NO_ARGUMENTS = Arguments.of((), {})
