"""What happens between forward and backward: saved-tensor hooks, and changes in place that they would hide."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors, save_on_cpu, saved_tensors_hooks

from lpgpu import GRU, MGRIT, Serial
from tests.assertions import assert_close_relative
from tests.nn.networks import GatedStep, inputs, network

MODULES: dict[str, Callable[[Any], nn.Module]] = {
    "dense": lambda solver: network(solver=solver),
    "any": lambda solver: network(GatedStep, form="step", solver=solver),
    "gru": lambda solver: GRU(4, 4, 2, solver=solver, dtype=torch.float64),
}
SOLVERS: dict[str, Any] = {"Serial": Serial(), "MGRIT": MGRIT(), "C-points": MGRIT(store="c_points")}


@pytest.fixture(params=[(module, solver) for module in MODULES for solver in SOLVERS], ids="-".join)
def module(request: pytest.FixtureRequest) -> nn.Module:
    name, solver = request.param
    return MODULES[name](SOLVERS[solver])


def output(module: nn.Module, x: Tensor) -> Tensor:
    y = module(x)
    return y[0] if isinstance(y, tuple) else y


def gradients(module: nn.Module, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().sum(), list(module.parameters())))


@pytest.mark.parametrize(
    "hooks",
    [
        lambda: saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()),
        lambda: saved_tensors_hooks(lambda t: t.detach().numpy().copy(), torch.from_numpy),
        save_on_cpu,
        allow_mutation_on_saved_tensors,
    ],
    ids=["clones", "arrays", "save_on_cpu", "allow_mutation"],
)
def test_saved_tensor_hooks_change_no_gradient(module: nn.Module, hooks: Callable[[], Any]) -> None:
    x = inputs(20, 4) if not isinstance(module, GRU) else inputs(20, 2, 4)
    expected = gradients(module, output(module, x))
    with hooks():
        y = output(module, x)
        came = gradients(module, y)
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other, tolerance=1e-14)


def test_a_weight_changed_behind_autograds_back_is_noticed(module: nn.Module) -> None:
    """Autograd would have its copy of the old one; the solve has not."""
    x = inputs(20, 4) if not isinstance(module, GRU) else inputs(20, 2, 4)
    with allow_mutation_on_saved_tensors():
        y = output(module, x)
        with torch.no_grad():
            next(p for name, p in module.named_parameters() if "_ih" not in name).mul_(1.5)  # of x, it is autograd's
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_a_backward_without_retain_graph_lets_go_of_the_solve(module: nn.Module) -> None:
    """As autograd does of all that it saved, though the output lives on."""
    x = inputs(20, 4) if not isinstance(module, GRU) else inputs(20, 2, 4)
    y = output(module, x)
    node: Any = y.grad_fn
    while not hasattr(node, "kept"):
        node = node.next_functions[0][0]
    kept = weakref.ref(node.kept)
    y.sum().backward(retain_graph=True)
    assert kept() is not None
    y.sum().backward()
    gc.collect()
    assert kept() is None
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()
