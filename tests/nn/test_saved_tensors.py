"""What happens between forward and backward: saved-tensor hooks, and changes in place that they would hide."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors, save_on_cpu, saved_tensors_hooks

from lpgpu import GRU, MGRIT, Recurrent, Serial
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


def test_weights_exchanged_before_backward_change_no_gradient(module: nn.Module) -> None:
    """`.data` gets other memory, as where averaged weights are swapped in; autograd keeps what it saved."""
    x = inputs(20, 4) if not isinstance(module, GRU) else inputs(20, 2, 4)
    expected = gradients(module, output(module, x))
    y = output(module, x)
    for weight in module.parameters():
        weight.data = 3 * weight.data
    for one, other in zip(gradients(module, y), expected, strict=True):
        assert_close_relative(one, other, tolerance=1e-14)


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


class Masked(nn.Module):
    """tanh(s m ⊙ W u) after dropout, with a buffer m and a number s; as a block, and as a cell of a sequence."""

    scale: Any

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 4), nn.Dropout(0.5)
        self.register_buffer("mask", torch.rand(4))
        self.scale = 2.0

    def initial_state(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def forward(self, u: Tensor, h: Tensor | None = None) -> Tensor:
        return torch.tanh(self.scale * self.mask * self.linear(self.drop(u if h is None else u + h)))


@pytest.fixture(
    params=[(module, solver) for module in ("layers", "sequence") for solver in ("Serial", "C-points")], ids="-".join
)
def masked(request: pytest.FixtureRequest) -> nn.Module:
    name, solver = request.param
    if name == "layers":
        return network(Masked, solver=SOLVERS[solver])
    return Recurrent(Masked().double(), solver=SOLVERS[solver])


def gradients_with(masked: nn.Module, between: Callable[[nn.Module], object]) -> list[Tensor]:
    """Those of one call, with the same draws and input each time, with something done before backward."""
    torch.manual_seed(0)
    y = output(masked, torch.randn(20, 2, 4, dtype=torch.float64))
    between(masked)
    return gradients(masked, y)


def test_a_mode_changed_before_backward_changes_no_gradient(masked: nn.Module) -> None:
    """Forward, `eval()` for a look at the validation data, backward: the graph is of the mode there was."""
    expected = gradients_with(masked, lambda net: None)
    came = gradients_with(masked, lambda net: net.eval())
    assert not any(part.training for part in masked.modules())
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other, tolerance=1e-14)


@pytest.mark.parametrize("scale", [0.5, torch.zeros(4)], ids=["number", "tensor"])
def test_a_number_changed_before_backward_changes_no_gradient(masked: nn.Module, scale: Any) -> None:
    def change(net: nn.Module) -> None:
        for part in net.modules():
            if isinstance(part, Masked):
                part.scale = scale

    expected = gradients_with(masked, lambda net: None)
    came = gradients_with(masked, change)
    assert all(part.scale is scale for part in masked.modules() if isinstance(part, Masked))
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other, tolerance=1e-14)


def test_hooks_removed_before_backward_change_no_gradient(masked: nn.Module) -> None:
    """Those of a `with` statement around the forward alone."""
    (part,) = (part for part in masked.modules() if isinstance(part, nn.Linear))
    pre_hook = {"hook": lambda module, args, kwargs: ((3 * args[0],), kwargs), "with_kwargs": True}

    def hooked(between: Callable[[list[Any]], object]) -> list[Tensor]:
        handles = [part.register_forward_hook(lambda *of: 0.5 * of[-1]), part.register_forward_pre_hook(**pre_hook)]
        came = gradients_with(masked, lambda net: between(handles))
        assert len(part._forward_hooks) == sum(handle.id in part._forward_hooks for handle in handles)
        for handle in handles:
            handle.remove()
        return came

    expected = hooked(lambda handles: None)
    came = hooked(lambda handles: [handle.remove() for handle in handles])
    assert not part._forward_hooks and not part._forward_pre_hooks
    for one, other in zip(came, expected, strict=True):
        assert_close_relative(one, other, tolerance=1e-14)


def test_a_buffer_changed_before_backward_is_refused(masked: nn.Module) -> None:
    """As PyTorch refuses it; the adjoint would be linearised at other values than the forward saw."""
    with pytest.raises(RuntimeError, match=r"a buffer .* has been modified by an inplace operation"):
        gradients_with(masked, lambda net: [buffer.zero_() for buffer in net.buffers()])


def test_a_buffer_exchanged_before_backward_changes_no_gradient(masked: nn.Module) -> None:
    def exchange(net: nn.Module) -> None:
        for part in net.modules():
            if isinstance(part, Masked):
                part.mask = torch.zeros_like(part.mask)

    expected = gradients_with(masked, lambda net: None)
    for one, other in zip(gradients_with(masked, exchange), expected, strict=True):
        assert_close_relative(one, other, tolerance=1e-14)
