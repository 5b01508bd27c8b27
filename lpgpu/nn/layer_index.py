"""The number that a layer may know itself by, such as `layer_idx` of Hugging Face's blocks: no two layers share it.

It serves caches and messages, which a solve has none of. In a stack of layers it is put out of use: whoever computes
with it is told so.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import nn

INDICES = ("layer_idx", "layer_id", "layer_index", "layer_number", "block_idx", "block_id", "block_index")


class IndexOfLayer:
    """In the place of a layer's own index; that of layer k is `of_first` + k."""

    def __init__(self, name: str, of_first: int) -> None:
        self.name = name
        self.of_first = of_first

    def __repr__(self) -> str:
        return f"{self.of_first} + layer"

    def _refuse(self, *others: Any) -> NoReturn:
        raise TypeError(
            f"the block computes with its own index, {self.name}, which all layers of a stack share: pass what depends "
            "on it as an argument, PerLayer(values), or make it a buffer; a cache of keys and values must be off "
            "(use_cache=False)"
        )

    __int__ = __index__ = __float__ = __bool__ = __hash__ = _refuse  # pyright: ignore
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __floordiv__ = __truediv__ = _refuse
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse  # pyright: ignore


def name_indices(stacked: nn.Module, modules: Sequence[nn.Module], first: int) -> None:
    """Put the indices of `modules`, which are layers `first`, `first` + 1, … of a network, out of use in `stacked`.

    Raises:
        ValueError: where they do not count the layers.
    """
    for part, *parts in zip(stacked.modules(), *(module.modules() for module in modules), strict=True):
        for name in INDICES:
            values = [vars(each).get(name) for each in parts]
            if type(values[0]) is not int or (len(values) > 1 and len(set(values)) == 1):
                continue
            if values != list(range(values[0], values[0] + len(values))):
                raise ValueError(
                    f"the layers' {name} are {values}; expected consecutive ones: what differs between layers must be "
                    "a parameter or a buffer"
                )
            vars(part)[name] = IndexOfLayer(name, values[0] - first)


def number_layer(module: nn.Module, layer: int) -> None:
    """Give a single layer, copied from a stack, its index again."""
    for part in module.modules():
        for name in INDICES:
            if isinstance(value := vars(part).get(name), IndexOfLayer):
                setattr(part, name, value.of_first + layer)
