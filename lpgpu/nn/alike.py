"""Whether layers are alike: what cannot be stacked is taken of the first of them, so it must be the same in all."""

import difflib
import re
import types
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from reprlib import Repr
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lpgpu.nn.layer_index import INDICES

_STACKED = ("_parameters", "_buffers", "_modules")
_LEFT_OUT = ("_state_dict", "_load_state_dict", "_compiled_call_impl")  # no forward runs them, or no copy has them
_HOOKS = ("_forward", "_backward")  # tables of hooks, by a number that no two share
_NUMBER_IN_PATH = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.)")  # a part's name in its model: h.3.attention

_short = Repr()
_short.maxother = _short.maxstring = 80


class Pattern:
    """What all layers must be like: the first of them."""

    def __init__(self, first: nn.Module) -> None:
        self.first = first
        self.structure = structure(first)

    def differences(self, other: nn.Module) -> str:
        """Where `other` is unlike, some lines; "" where it is alike."""
        if lines := lines_of_difference(self.structure, structure(other)):
            return lines
        if (found := _Comparison(self.first, other).of_attributes()) is None:
            return ""
        name, *values = found
        shown = [_short.repr(value) for value in values]
        what = " (another object)" if shown[0] == shown[1] else ""
        return f"  layer 0 has {name} = {shown[0]}\n  it has {name} = {shown[1]}{what}"


def structure(module: nn.Module) -> str:
    """Submodules, plain attributes, and shapes and dtypes of parameters and buffers."""
    named: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    tensors = (f"{name}: {tuple(t.shape)} {t.dtype} requires_grad={t.requires_grad}" for name, t in named)
    plain = (
        f"{part}.{name} = {value!r}".removeprefix(".")
        for part, submodule in module.named_modules()
        for name, value in vars(submodule).items()
        if _is_plain(value) and not (name in INDICES and type(value) is int)
    )
    return "\n".join((repr(module), *tensors, *plain))


def _is_plain(value: Any) -> bool:
    inside = value if isinstance(value, list | tuple) else (value,)
    return all(isinstance(each, bool | int | float | str) for each in inside)


def lines_of_difference(first: str, other: str) -> str:
    """Of two structures the lines that are not in both, a few of them; "" where they are the same."""
    if other == first:
        return ""
    lines = [line for line in difflib.ndiff(first.splitlines(), other.splitlines()) if line[0] in "-+"]
    shown = [f"  {'layer 0 has' if line[0] == '-' else 'it has'} {line[2:].strip()}" for line in lines[:8]]
    return "\n".join([*shown, *(["  …"] if len(lines) > len(shown) else [])])


def check_alike(differences: str, what: str) -> None:
    """Raise ValueError, beginning with `what`, unless there are no differences between two layers."""
    if differences:
        raise ValueError(
            f"{what}, but all layers are propagated together, by one module:\n{differences}\n"
            "Make them alike: one width, one kind of module, the same attributes and hooks; what differs between "
            "layers must be a parameter or a buffer"
        )


def check_firsts(modules: Sequence[nn.Module]) -> None:
    """Raise ValueError where those that ranks' runs of layers begin with differ; every rank compares within its own."""
    for rank, module in enumerate(modules[1:], start=1):
        check_alike(Pattern(modules[0]).differences(module), f"the first layer of rank {rank} is unlike that of rank 0")


def refuse_compiled(module: nn.Module) -> None:
    """Raise TypeError where a layer is not made of plain modules: what is compiled of one is not of another."""
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule) or type(part).__name__ == "OptimizedModule":
            raise TypeError(
                f"a block is or holds {type(part).__name__}, compiled of one layer alone; expected plain modules: "
                "build them without torch.compile or torch.jit, and call torch.compile on the model around them"
            )


def refuse_parts_held_apart(layer: nn.Module) -> None:
    """Raise ValueError where `layer` reaches a part or a tensor of its own by a way that no copy of it would have.

    That is a function that holds a part of this one layer, or a list, dict or attribute with one of its tensors: all
    layers would have those of the first.
    """
    for prefix, part in layer.named_modules():
        if isinstance(part, nn.RNNBase):
            continue  # has lists of its weights; it is refused by torch.vmap
        for name, value in vars(part).items():
            if name in _STACKED or name.startswith(_LEFT_OUT) or not _holds_a_part(layer, value):
                continue
            raise ValueError(
                f"the block's {prefix or 'module'} ({type(part).__name__}) has {name} = {_short.repr(value)}, which "
                "holds a part or a tensor of this one layer, so that all layers would have that of the first. Use what "
                "is registered in the block: self.part, self.weight; and replace a method by "
                "types.MethodType(function, module), which goes with every layer"
            )


def _holds_a_part(layer: nn.Module, value: Any) -> bool:
    """Whether an attribute's `value` holds what a copy of `layer`, and of this value, would still have of it."""
    parts, tensors = set(map(id, layer.modules())), {id(tensor) for _, tensor in _tensors(layer)}
    seen: set[int] = set()

    def holds(value: Any, *, is_copied: bool) -> bool:
        if isinstance(value, Tensor):
            return id(value) in tensors
        if isinstance(value, types.MethodType):
            value = value.__self__
        if isinstance(value, nn.Module):
            return id(value) in parts and not is_copied
        if id(value) in seen:
            return False
        seen.add(id(value))
        if isinstance(value, types.FunctionType | partial):
            return any(holds(each, is_copied=False) for each in _held_by(value))
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return any(holds(each, is_copied=is_copied) for each in inside)

    return holds(value, is_copied=True)


class _Comparison:
    """Of all that two modules of one structure hold beside parameters, buffers and submodules."""

    def __init__(self, first: nn.Module, other: nn.Module) -> None:
        self.modules = first, other
        self.places = [{id(tensor): place for place, tensor in _tensors(each)} for each in self.modules]
        for places, each in zip(self.places, self.modules, strict=True):
            places.update((id(part), name) for name, part in each.named_modules())
        self.seen: dict[tuple[int, int], Any] = {}  # with the objects themselves, whose ids must stay theirs

    def of_attributes(self) -> tuple[str, Any, Any] | None:
        """The first attribute that differs, by its name, with both values."""
        parts = self.modules[0].named_modules(), self.modules[1].modules()
        for (prefix, one), other in zip(*parts, strict=True):
            for name in [*vars(one), *(name for name in vars(other) if name not in vars(one))]:
                if name in _STACKED or name.startswith(_LEFT_OUT):
                    continue
                a, b = vars(one).get(name), vars(other).get(name)
                if _is_computed(one, name, a) and _is_computed(other, name, b):
                    continue
                if name.startswith(_HOOKS) and isinstance(a, Mapping) and isinstance(b, Mapping):
                    a, b = [*a.values()], [*b.values()]
                if not (name in INDICES and type(a) is type(b) is int) and not self.same(a, b):
                    return f"{prefix}.{name}".removeprefix("."), a, b
        return None

    def same(self, a: Any, b: Any) -> bool:
        """Whether a forward that uses `b` does what one that uses `a` does, as far as can be seen."""
        if a is b or (id(a), id(b)) in self.seen:
            return True
        self.seen[id(a), id(b)] = a, b
        inside = [places.get(id(each)) for places, each in zip(self.places, (a, b), strict=True)]
        if inside != [None, None]:
            return inside[0] == inside[1]
        if isinstance(a, nn.Module) and isinstance(b, nn.Module):
            pairs = zip(_tensors(a), _tensors(b), strict=False)
            return structure(a) == structure(b) and all(_equal(one, other) for (_, one), (_, other) in pairs)
        if type(a) is not type(b):
            return False
        if isinstance(a, str):
            return _NUMBER_IN_PATH.sub("#", a) == _NUMBER_IN_PATH.sub("#", b)
        if isinstance(a, Tensor):
            return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and _equal(a, b)
        if isinstance(a, np.ndarray):
            return a.dtype == b.dtype and np.array_equal(a, b)
        if isinstance(a, Mapping):
            return [*a] == [*b] and self._all_same(a.values(), b.values())
        if isinstance(a, list | tuple):
            return len(a) == len(b) and self._all_same(a, b)
        if isinstance(a, types.FunctionType):
            return a.__code__ is b.__code__ and self.same(_held_by(a), _held_by(b))
        if isinstance(a, types.MethodType):
            return self._all_same((a.__func__, a.__self__), (b.__func__, b.__self__))
        if isinstance(a, partial):
            return self.same(_held_by(a), _held_by(b))
        if isinstance(a, weakref.ref):
            return self.same(a(), b())
        return self._same_objects(a, b)

    def _all_same(self, a: Any, b: Any) -> bool:
        return all(self.same(one, other) for one, other in zip(a, b, strict=True))

    def _same_objects(self, a: Any, b: Any) -> bool:
        """By their own equality; else by what they hold; what says nothing of itself counts as the same."""
        compares = type(a).__eq__ is not object.__eq__
        try:
            if compares and bool(a == b):
                return True
        except Exception:  # of whatever kind: an __eq__ that is not one
            compares = False
        if hasattr(a, "__dict__") and not isinstance(a, type | types.BuiltinFunctionType):
            return self.same(vars(a), vars(b))
        return not compares and not isinstance(a, type | types.BuiltinFunctionType)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _is_computed(part: nn.Module, name: str, value: Any) -> bool:
    """Whether it is a tensor that some forward leaves there, such as the weight of weight_norm or spectral_norm."""
    return isinstance(value, Tensor) and (value.grad_fn is not None or f"{name}_orig" in part._parameters)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.is_meta or torch.equal(a, b)


def _held_by(function: types.FunctionType | partial) -> tuple[Any, ...]:
    """What a function computes with besides its code and its module."""
    if isinstance(function, partial):
        return function.func, *function.args, *function.keywords.values()
    closure = [
        cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()
    ]  # of those not empty
    return *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *closure
