"""Layers that differ in more than parameters and buffers are refused; what is only built anew in each is not."""

import copy
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lpgpu import LayerParallel, parallelize
from tests.assertions import assert_close_relative
from tests.nn.networks import WIDTH, exactly, inputs


class Block(nn.Module):
    """With whatever a test adds to it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.1 * torch.tanh(self.linear(u))


class Options:
    """Says nothing of how two of it compare."""

    def __init__(self, scale: float) -> None:
        self.scale = scale


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and self.scale == other.scale


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda u: factor * u


def given(name: str, value: Callable[[int], Any]) -> Callable[[nn.Module, int], None]:
    return lambda block, k: setattr(block, name, value(k))


DIFFERENT: dict[str, Callable[[nn.Module, int], Any]] = {
    "a number": given("extra", float),
    "a tuple": given("extra", lambda k: (k,)),
    "a list in a dict": given("extra", lambda k: {"window": [k]}),
    "a tensor that is no buffer": given("extra", lambda k: torch.tensor(float(k))),
    "an array": given("extra", lambda k: np.array([k])),
    "a function": given("extra", lambda k: (torch.tanh, torch.sigmoid)[k % 2]),
    "a function's closure": given("extra", scaled),
    "a class": given("extra", lambda k: (Options, Slotted)[k % 2]),
    "None or not": given("extra", lambda k: None if k else (1,)),
    "an object's attribute": given("extra", Options),
    "an object that compares": given("extra", Slotted),
    "a namespace": given("extra", lambda k: types.SimpleNamespace(scale=k)),
    "a partial function's argument": given("extra", lambda k: functools.partial(torch.add, alpha=k)),
    "a frozen module in a list": given("extra", lambda k: [nn.Linear(1, 1).requires_grad_(False)]),
    "a part's attribute": lambda block, k: setattr(block.linear, "extra", (k,)),
    "a forward hook": lambda block, k: k == 2 and block.register_forward_hook(lambda *_: None),
    "a part's pre-hook": lambda block, k: k == 2 and block.linear.register_forward_pre_hook(lambda *_: None),
    "a forward of its own": lambda block, k: k == 2 and setattr(block, "forward", scaled(1.0)),
}
ALIKE: dict[str, Callable[[nn.Module, int], Any]] = {
    "equal tuples": given("extra", lambda k: ([1, 2], (3,), {"a": None})),
    "equal tensors": given("extra", lambda k: torch.arange(3.0)),
    "equal arrays": given("extra", lambda k: np.arange(3)),
    "equal closures": given("extra", lambda k: scaled(2.0)),
    "objects that hold the same": given("extra", lambda k: Options(2.0)),
    "objects that are the same": given("extra", lambda k: Slotted(2.0)),
    "generators": given("extra", lambda k: torch.Generator()),
    "a list with the block itself": lambda block, k: setattr(block, "extra", [block]),
    "a weak reference to a part": lambda block, k: setattr(block, "extra", weakref.WeakMethod(block.linear.forward)),
    "a torch.nn.GRU": given("extra", lambda k: nn.GRU(WIDTH, WIDTH)),
    "a bound forward": lambda block, k: setattr(block, "forward", types.MethodType(Block.forward, block)),
    "compiled in place": lambda block, k: block.compile(backend="eager"),
    "the same hook": lambda block, k: block.register_forward_hook(lambda *_: None),
    "state-dict hooks": lambda block, k: k and block.register_state_dict_post_hook(lambda *_: None),
    "a tensor left by a forward": lambda block, k: setattr(block, "extra", block(inputs())),
    "spectral_norm": lambda block, k: nn.utils.spectral_norm(block.linear).eval(),
    "weight_norm": lambda block, k: nn.utils.weight_norm(block.linear),
    "parametrized weight_norm": lambda block, k: nn.utils.parametrizations.weight_norm(block.linear),
    "their name in a model": given("extra", lambda k: {"name": f"model.h.{k}.attention"}),
    "their number": given("layer_idx", int),
}


def blocks(change: Callable[[nn.Module, int], Any]) -> list[nn.Module]:
    built = [Block().double() for _ in range(4)]
    for k, block in enumerate(built):
        change(block, k)
    return built


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_named_and_refused(what: str) -> None:
    """And never taken of the first layer for all of them, which would compute something else."""
    with pytest.raises(ValueError, match=r"(?s)unlike layer 0.*layer 0 has .*(extra|hook|forward)"):
        LayerParallel.of_modules(None, blocks(DIFFERENT[what]))


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_ends_a_run_of_a_model(what: str) -> None:
    model = nn.Sequential(nn.Sequential(*blocks(DIFFERENT[what])))
    reference, x = copy.deepcopy(model), inputs()
    try:
        parallelize(model, "0", solver=exactly())
    except ValueError as error:
        assert "Of the first two:\n  layer 0 has" in str(error)
    assert_close_relative(model(x), reference(x), tolerance=1e-12)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("what", ALIKE)
def test_what_is_only_built_anew_is_alike(what: str) -> None:
    """A hook with a place of its own, a closure, an object: of each layer another one that does the same."""
    built, x = blocks(ALIKE[what]), inputs()
    net = LayerParallel.of_modules(None, built, solver=exactly(4))
    expected = x
    for block in built:
        expected = block(expected)
    assert_close_relative(net(x), expected, tolerance=1e-12)


HELD_APART: dict[str, Callable[[nn.Module], Any]] = {
    "a closure": lambda block: setattr(block, "forward", lambda u: 2 * Block.forward(block, u)),
    "a partial function": lambda block: setattr(block, "forward", functools.partial(Block.forward, block)),
    "a closure of the old forward": lambda block: setattr(block, "forward", wrapped(block.forward)),
    "a list of weights": lambda block: setattr(block, "weights", [block.linear.weight]),
    "another name of a buffer": lambda block: setattr(block, "alias", buffered(block)),
    "a part's hook": lambda block: block.linear.register_forward_hook(lambda *_: block.linear.bias),
}


def wrapped(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda u: forward(u) + 1


def buffered(block: nn.Module) -> Tensor:
    block.register_buffer("scale", torch.rand(WIDTH))
    return block.scale  # pyright: ignore


@pytest.mark.parametrize("what", HELD_APART)
def test_what_holds_one_layer_is_refused(what: str) -> None:
    """Of frozen layers, too, where no gradient tells of it: every layer would have the weights of the first."""
    with pytest.raises(ValueError, match=r"holds a part or a tensor of this one layer.*types\.MethodType"):
        LayerParallel.of_modules(None, blocks(lambda block, k: HELD_APART[what](block.requires_grad_(False))))


COMPILED: dict[str, Callable[[nn.Module], Any]] = {
    "compiled": lambda block: torch.compile(block, backend="eager"),
    "scripted": lambda block: torch.jit.script(block),
    "in a part": lambda block: nn.Sequential(torch.compile(block, backend="eager")),  # pyright: ignore
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("what", COMPILED)
def test_compiled_layers_are_refused_with_the_cure(what: str) -> None:
    built = [COMPILED[what](Block()) for _ in range(3)]
    with pytest.raises(TypeError, match=r"compiled of one layer.*torch\.compile on the model"):
        LayerParallel.of_modules(None, built)
    with pytest.raises(TypeError, match=r"compiled of one layer.*torch\.compile on the model"):
        parallelize(nn.Sequential(nn.Sequential(*built)), "0")


def test_gradient_hooks_of_a_layers_parameter_are_refused() -> None:
    """The stacked parameter would not run them."""

    def masked() -> nn.Module:
        block = Block()
        block.linear.weight.register_hook(lambda gradient: 0 * gradient)
        return block

    with pytest.raises(ValueError, match=r"parameter 'weight' has gradient hooks.*register_hook"):
        LayerParallel(None, masked, 4, 1.0)


def test_the_first_two_blocks_classes_are_named() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    with pytest.raises(ValueError, match=r"no 2 equal blocks.* The first two are Linear and Tanh"):
        parallelize(model, "0")
