"""PyTorch's own checks of its modules (test/test_modules.py over ModuleInfo), written out for GRU beside torch.nn.GRU.

Constructor arguments and inputs are like those that ModuleInfo has for torch.nn.GRU: with and without biases, one layer
or two, batch first or not, one direction or two; batched and unbatched, with and without a state to start from.
"""

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from lpgpu import GRU, MGRIT, Serial
from tests.assertions import assert_close_relative

FEATURES, WIDTH, STEPS, BATCH = 5, 3, 6, 2
NAMES = ("num_layers", "bias", "batch_first", "bidirectional")
OPTIONS = [  # every pair of values of two options is in one of them
    dict(zip(NAMES, values, strict=True))
    for values in (
        (1, True, False, False),
        (1, False, True, True),
        (2, True, True, False),
        (2, False, False, True),
        (2, True, False, True),
        (1, False, False, False),
    )
]
CALLS = list(itertools.product([True, False], [True, False]))  # batched?, with hx?
FORMULATIONS = ["implicit", "classic"]


def name_of(options: Any) -> str:
    return "-".join(f"{name}={value}" for name, value in options.items())


@pytest.fixture(params=OPTIONS, ids=name_of)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def ours(formulation: str = "classic", solver: MGRIT | Serial | None = None, **options: Any) -> GRU:
    arguments: dict[str, Any] = {"dtype": torch.float64, **options}
    return GRU(FEATURES, WIDTH, formulation=formulation, solver=solver or Serial(), **arguments)  # pyright: ignore


def pair(**options: Any) -> tuple[GRU, nn.GRU]:
    """Ours, classic and serial, and torch's, of the same weights."""
    theirs = nn.GRU(FEATURES, WIDTH, **options, dtype=torch.float64)
    gru = ours(**options)
    gru.load_state_dict(theirs.state_dict())
    return gru, theirs


def call(gru: nn.GRU, batched: bool = True, with_hx: bool = True) -> tuple[Tensor, ...]:
    """Arguments for a call, which want gradients."""
    sizes = [BATCH, STEPS] if gru.batch_first else [STEPS, BATCH]
    states = gru.num_layers * (2 if gru.bidirectional else 1)
    x = torch.randn(*(sizes if batched else [STEPS]), FEATURES, dtype=torch.float64, requires_grad=True)
    hx = torch.randn(states, *([BATCH] if batched else []), WIDTH, dtype=torch.float64, requires_grad=True)
    return (x, hx) if with_hx else (x,)


def assert_all_close(came: Any, expected: Any) -> None:
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other)


def gradients(gru: nn.GRU, arguments: tuple[Tensor, ...], weights: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    loss = sum((weight * y).sum() for weight, y in zip(weights, gru(*arguments), strict=True))
    return torch.autograd.grad(loss, (*arguments, *gru.parameters()))  # pyright: ignore


@pytest.mark.parametrize(("batched", "with_hx"), CALLS)
def test_forward(options: dict[str, Any], batched: bool, with_hx: bool) -> None:
    gru, theirs = pair(**options)
    arguments = call(gru, batched, with_hx)
    assert_all_close(gru(*arguments), theirs(*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factory_kwargs(options: dict[str, Any], dtype: torch.dtype) -> None:
    """`device` and `dtype` reach every parameter; on the device meta nothing is allocated or drawn."""
    state = torch.get_rng_state()
    gru = ours(**options, dtype=dtype, device="meta")
    assert torch.equal(torch.get_rng_state(), state)
    assert {(p.dtype, p.device.type) for p in gru.parameters()} == {(dtype, "meta")}
    assert {p.dtype for p in ours(**options, dtype=dtype).parameters()} == {dtype}
    theirs = nn.GRU(FEATURES, WIDTH, **options, device="meta")
    shapes = {name: p.shape for name, p in theirs.named_parameters()}
    assert {name: p.shape for name, p in gru.named_parameters()} == shapes


def test_repr(options: dict[str, Any]) -> None:
    gru, theirs = pair(**options)
    assert repr(gru).startswith(repr(theirs).removesuffix(")"))
    assert str(gru) == repr(gru)


def test_initialisation_is_torchs(options: dict[str, Any], seed: int) -> None:
    torch.manual_seed(seed)
    gru = ours(**options)
    torch.manual_seed(seed)
    theirs = nn.GRU(FEATURES, WIDTH, **options, dtype=torch.float64)
    assert all(map(torch.equal, gru.parameters(), theirs.parameters()))
    torch.manual_seed(seed)
    gru.reset_parameters()
    assert all(map(torch.equal, gru.parameters(), theirs.parameters()))


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_save_load(options: dict[str, Any], formulation: str) -> None:
    gru = ours(formulation, **options)
    arguments, file = call(gru), io.BytesIO()
    torch.save(gru.state_dict(), file)
    file.seek(0)
    other = ours(formulation, **options)
    other.load_state_dict(torch.load(file))
    assert all(map(torch.equal, gru(*arguments), other(*arguments)))
    nn.GRU(FEATURES, WIDTH, **options).load_state_dict(gru.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda gru: pickle.loads(pickle.dumps(gru))], ids=["copy", "pickle"])
def test_pickle(options: dict[str, Any], copied: Callable[[GRU], GRU]) -> None:
    """Before and after a call, which leaves results behind."""
    gru = ours("implicit", MGRIT(), **options)
    arguments = call(gru)
    for twin in (copied(gru), gru(*arguments) and copied(gru)):
        assert all(map(torch.equal, gru(*arguments), twin(*arguments)))
        assert (twin.formulation, twin.solver) == (gru.formulation, gru.solver)


def made_non_contiguous(tensor: Tensor) -> Tensor:
    """The same values, every other entry of a larger tensor; wants a gradient."""
    wider = torch.empty(*tensor.shape, 2, dtype=tensor.dtype)
    wider[..., 0] = tensor.detach()
    return wider[..., 0].requires_grad_()


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("which", ["input", "hx", "parameters", "gradients"])
def test_non_contiguous_tensors(options: dict[str, Any], formulation: str, which: str) -> None:
    gru = ours(formulation, MGRIT(), **options)
    arguments = call(gru)
    weights = tuple(torch.randn_like(y) for y in gru(*arguments))
    expected = gradients(gru, arguments, weights)
    if which == "parameters":
        for name, parameter in list(gru.named_parameters()):
            setattr(gru, name, nn.Parameter(made_non_contiguous(parameter)))
    elif which == "gradients":
        weights = tuple(made_non_contiguous(weight).detach() for weight in weights)
    else:
        index = ["input", "hx"].index(which)
        arguments = tuple(made_non_contiguous(t) if i == index else t for i, t in enumerate(arguments))
    assert_all_close(gradients(gru, arguments, weights), expected)


def as_function(gru: GRU) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """(arguments and parameters → results), and the parameters."""
    names, parameters = zip(*gru.named_parameters(), strict=True)

    def function(x: Tensor, hx: Tensor, *parameters: Tensor) -> Any:
        return torch.func.functional_call(gru, dict(zip(names, parameters, strict=True)), (x, hx))

    return function, parameters


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("batched", [True, False])
def test_grad(options: dict[str, Any], formulation: str, batched: bool) -> None:
    gru = ours(formulation, **options)
    function, parameters = as_function(gru)
    assert gradcheck(function, (*call(gru, batched), *parameters), fast_mode=True)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_gradgrad(options: dict[str, Any], formulation: str) -> None:
    gru = ours(formulation, **options)
    function, parameters = as_function(gru)
    assert gradgradcheck(function, (*call(gru), *parameters), fast_mode=True)


def test_gradgrad_of_an_inexact_solve_is_refused(options: dict[str, Any]) -> None:
    gru = ours("implicit", MGRIT(coarsening=2), **options)
    x, hx = call(gru)
    with pytest.raises(RuntimeError, match=r"second derivative.*solver = Serial\(\)"):
        torch.autograd.grad(gru(x, hx)[0].sum(), x, create_graph=True)


def test_gradients_are_torchs(options: dict[str, Any]) -> None:
    gru, theirs = pair(**options)
    arguments = call(gru)
    weights = tuple(torch.randn_like(y) for y in theirs(*arguments))
    assert_all_close(gradients(gru, arguments, weights), gradients(theirs, arguments, weights))


def test_hooks(options: dict[str, Any]) -> None:
    """Each kind once, in torch's order, with torch's arguments; and what they return takes the place of what was."""
    seen: dict[str, list[Any]] = {}
    results = []
    gru, theirs = pair(**options)
    arguments = call(gru)
    for module in (gru, theirs):
        heard = seen.setdefault(type(module).__module__, [])

        def heard_of(kind: str, value: Any, heard: list[Any] = heard) -> None:
            heard.append((kind, [None if t is None else t.detach() for t in value]))

        def before(module: nn.Module, args: Any, heard_of: Any = heard_of) -> Any:
            heard_of("before", args)
            return tuple(2 * t for t in args)

        def after(module: nn.Module, args: Any, output: Any, heard_of: Any = heard_of) -> Any:
            heard_of("after", (*args, *output))
            return tuple(3 * t for t in output)

        def backward(module: nn.Module, dx: Any, dy: Any, heard_of: Any = heard_of) -> Any:
            heard_of("backward", (*dx, *dy))
            return tuple(None if t is None else 5 * t for t in dx)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
        module.register_full_backward_hook(backward)
        output, h_n = module(*arguments)
        loss = output.square().sum() + h_n.sum()
        results.append((output, h_n, *torch.autograd.grad(loss, (*arguments, *module.parameters()))))
    assert_all_close(*results)
    of_ours, of_theirs = seen.values()
    assert [kind for kind, _ in of_ours] == [kind for kind, _ in of_theirs] == ["before", "after", "backward"]
    for (_, came), (_, expected) in zip(of_ours, of_theirs, strict=True):
        assert_all_close(came, expected)


def test_training_and_eval_are_one_without_dropout(options: dict[str, Any]) -> None:
    gru = ours("implicit", MGRIT(), **options)
    arguments = call(gru)
    assert gru.training
    trained = gru(*arguments)
    assert all(map(torch.equal, trained, gru.eval()(*arguments))) and not gru.training


def test_to_and_back(options: dict[str, Any]) -> None:
    """The parameters stay the same objects, so that an optimizer keeps them; values go through fp32 and back."""
    gru, theirs = pair(**options)
    before = list(gru.parameters())
    gru.float().double()
    theirs.float().double()
    assert all(one is other for one, other in zip(gru.parameters(), before, strict=True))
    arguments = call(gru)
    assert_all_close(gru(*arguments), theirs(*arguments))


def test_zero_grad_and_requires_grad(options: dict[str, Any]) -> None:
    gru, (x, hx) = ours(**options), call(ours(**options))
    gru(x, hx)[0].sum().backward()
    assert all(p.grad is not None for p in gru.parameters())
    gru.zero_grad()
    assert all(p.grad is None for p in gru.parameters())
    gru.requires_grad_(False)
    gru(x, hx)[0].sum().backward()
    assert all(p.grad is None for p in gru.parameters()) and x.grad is not None
