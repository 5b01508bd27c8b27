"""A state of several tensors, a tuple or a dict of them, as one: side by side in its last dimension."""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten


@dataclass(frozen=True)
class Packing:
    """How tensors [batch, ...] lie in one [batch, S]; `shapes` are those of a single example."""

    spec: TreeSpec
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, state: Any, what: str) -> "Packing":
        """That of `state`, a tree of tensors [batch, ...].

        Raises:
            TypeError, ValueError: where it is none, or its tensors differ in batch, dtype or device.
        """
        leaves, spec = tree_flatten(state)
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise TypeError(f"{what} holds {type(leaf).__name__}; expected tensors [batch, ...]")
        facts = {(leaf.shape[:1], leaf.dtype, leaf.device) for leaf in leaves}
        if len(facts) != 1 or not leaves[0].ndim:
            came = ", ".join(f"{leaf.dtype} {tuple(leaf.shape)} on {leaf.device}" for leaf in leaves) or "no tensor"
            raise ValueError(f"{what} holds {came}; expected tensors [batch, ...] of one batch, dtype and device")
        return cls(spec, tuple(tuple(leaf.shape[1:]) for leaf in leaves))

    def check(self, state: Any, what: str) -> None:
        """Raise ValueError unless `state` is a tree like this one, with tensors of these shapes."""
        came = Packing.of(_in_order_of(self._example, state), what)
        if came != self:
            raise ValueError(f"{what} is {came}; expected {self}")

    def __str__(self) -> str:
        return str(tree_unflatten([_Shown("batch", *shape) for shape in self.shapes], self.spec))

    @property
    def sizes(self) -> list[int]:
        """The entries of each tensor for one example."""
        return [prod(shape) for shape in self.shapes]

    def pack(self, state: Any) -> Tensor:
        """`state`, with any leading dimensions before those of an example, as one tensor [..., S]."""
        leaves, spec = tree_flatten(_in_order_of(self._example, state))
        if spec != self.spec or not all(map(_ends_with, leaves, self.shapes)):
            raise ValueError(
                f"a state {tree_map(_shown, state)} came; expected {self}: every step must keep the state's "
                "structure and shapes"
            )
        if len(dtypes := {leaf.dtype for leaf in leaves} - _lower_than_state(leaves[0])) > 1:
            raise ValueError(f"a state of {', '.join(sorted(map(str, dtypes)))} came; expected tensors of one dtype")
        flat = (
            leaf.reshape(*leaf.shape[: leaf.ndim - len(shape)], prod(shape))
            for leaf, shape in zip(leaves, self.shapes, strict=True)
        )
        return torch.cat(tuple(flat), -1)

    @property
    def _example(self) -> Any:
        return tree_unflatten(self.shapes, self.spec)

    def unpack(self, packed: Tensor) -> Any:
        """The tree of tensors [..., *shape] that lie in `packed` [..., S]."""
        parts = packed.split(self.sizes, -1)
        leaves = [part.reshape(*packed.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return tree_unflatten(leaves, self.spec)


class _Shown:
    """A tensor in a message, by its shape."""

    def __init__(self, *shape: Any) -> None:
        self.shape = shape

    def __repr__(self) -> str:
        return f"[{', '.join(map(str, self.shape))}]"


def _lower_than_state(like: Tensor) -> set[torch.dtype]:
    """What autocast, if it is on, computes in: its products become of the state's dtype again."""
    device = like.device.type
    return {torch.get_autocast_dtype(device)} if torch.is_autocast_enabled(device) else set()


def _shown(leaf: Any) -> Any:
    return _Shown(*leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__


def _ends_with(leaf: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(leaf, Tensor) and tuple(leaf.shape[leaf.ndim - len(shape) :]) == shape


def _in_order_of(like: Any, state: Any) -> Any:
    """`state` with the entries of its dicts in the order of those of `like`, where these have the same."""
    if type(state) is dict and isinstance(like, dict) and state.keys() == like.keys():
        return {key: _in_order_of(of_key, state[key]) for key, of_key in like.items()}
    if type(state) is type(like) and type(state) in (tuple, list) and len(state) == len(like):
        return type(state)(map(_in_order_of, like, state))
    return state
