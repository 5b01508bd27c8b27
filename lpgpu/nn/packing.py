"""A state of several tensors, a tuple or a dict of them, as one: side by side in its last dimension."""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


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

    @property
    def sizes(self) -> list[int]:
        """The entries of each tensor for one example."""
        return [prod(shape) for shape in self.shapes]

    def pack(self, state: Any) -> Tensor:
        """`state`, with any leading dimensions before those of an example, as one tensor [..., S]."""
        leaves, spec = tree_flatten(state)
        shapes = tuple(tuple(leaf.shape[leaf.ndim - len(s) :]) for leaf, s in zip(leaves, self.shapes, strict=False))
        if spec != self.spec or shapes != self.shapes:
            came = [tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves]
            raise ValueError(
                f"a state of {spec} with {came} came; expected {self.spec} with [batch, *{list(self.shapes)}]: every "
                "step must keep the state's structure and shapes"
            )
        flat = (leaf.reshape(*leaf.shape[: leaf.ndim - len(s)], -1) for leaf, s in zip(leaves, shapes, strict=True))
        return torch.cat(tuple(flat), -1)

    def unpack(self, packed: Tensor) -> Any:
        """The tree of tensors [..., *shape] that lie in `packed` [..., S]."""
        parts = packed.split(self.sizes, -1)
        leaves = [part.reshape(*packed.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return tree_unflatten(leaves, self.spec)
