"""Nothing takes part in a block unseen: captured tensors, hooks, forwards and modules that were replaced."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel, Serial
from lpgpu.nn import ConvBlock, DenseBlock, stacked_call
from lpgpu.nn.propagators.conv import ConvLayers
from lpgpu.nn.propagators.dense import DenseLayers
from lpgpu.nn.propagators.purity import without_fast_path
from tests.assertions import assert_equals_serial
from tests.nn.networks import WIDTH, exactly, inputs, network


class Conditioned(nn.Module):
    """f(u) = tanh(W u + c), with a tensor c that is no parameter: of a closure, or an attribute."""

    def __init__(self, condition: Callable[[], Tensor] | Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.condition = condition

    def forward(self, u: Tensor) -> Tensor:
        c = self.condition if isinstance(self.condition, Tensor) else self.condition()
        return torch.tanh(self.linear(u) + c)


CAPTURED: dict[str, Callable[[nn.Parameter], Any]] = {
    "a closure's": lambda p: lambda: p,
    "computed before": lambda p: lambda p2=2 * p: p2,
    "computed in the block": lambda p: lambda: p.exp() + 1,
    "an attribute": lambda p: p.detach().requires_grad_(),
}
SOLVERS: dict[str, Any] = {"Serial": Serial(), "MGRIT": MGRIT(coarsening=4), "C-points": MGRIT(store="c_points")}


class TestCapturedTensors:
    @pytest.mark.parametrize("captured", CAPTURED)
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("frozen", [False, True])
    def test_that_want_a_gradient_are_refused_in_the_forward(self, captured: str, solver: str, frozen: bool) -> None:
        condition = CAPTURED[captured](nn.Parameter(inputs(WIDTH)))
        net = network(lambda: Conditioned(condition), 16, solver=SOLVERS[solver]).requires_grad_(not frozen)
        with pytest.raises(ValueError, match=r"uses a tensor \(4,\) that wants a gradient but is neither its input"):
            net(inputs())
        with torch.no_grad():
            assert net(inputs()).isfinite().all()

    def test_that_want_one_only_in_backward_are_refused_there(self) -> None:
        condition = inputs(WIDTH)
        y = network(lambda: Conditioned(lambda: condition), 16)(inputs())
        condition.requires_grad_()
        with pytest.raises(ValueError, match="that wants a gradient"):
            y.sum().backward()

    def test_that_want_none_are_welcome(self) -> None:
        condition = inputs(WIDTH)
        assert_equals_serial(network(lambda: Conditioned(lambda: condition), solver=exactly()), inputs())

    def test_weights_shared_through_a_closure_are_refused(self) -> None:
        shared = nn.Linear(WIDTH, WIDTH).double()

        class Shares(nn.Module):
            def forward(self, u: Tensor) -> Tensor:
                return shared(u)

        with pytest.raises(ValueError, match="that wants a gradient"):
            network(Shares, 8)(inputs())

    def test_a_buffer_that_wants_a_gradient_is_refused(self) -> None:
        def block() -> nn.Module:
            module = nn.Linear(WIDTH, WIDTH)
            module.register_buffer("scale", torch.ones(WIDTH, requires_grad=True))
            return module

        with pytest.raises(ValueError, match=r"buffer 'scale' wants a gradient.*nn\.Parameter"):
            network(block, 8)


def doubled(module: nn.Module, *arguments: Any) -> Any:
    """As a forward hook (module, arguments, output), a pre-hook (module, arguments) or a forward (module, input)."""
    return 2 * arguments[-1] if isinstance(arguments[-1], Tensor) else tuple(2 * each for each in arguments[-1])


def patched(part: nn.Module) -> None:
    """Half of what it was, by a method of the instance, which a copy binds to itself."""
    part.forward = types.MethodType(lambda self, z: type(self).forward(self, z) / 2, part)


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    "forward hook": lambda part: part.register_forward_hook(doubled),
    "pre-hook": lambda part: part.register_forward_pre_hook(doubled),
    "patched forward": patched,
}
PARTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "the block": (lambda: DenseBlock(WIDTH), (3, WIDTH), ""),
    "its linear layer": (lambda: DenseBlock(WIDTH), (3, WIDTH), "linear"),
    "its activation": (lambda: DenseBlock(WIDTH), (3, WIDTH), "activation"),
    "its second convolution": (lambda: ConvBlock(2, activation="tanh"), (2, 2, 3, 3), "convolutions.1"),
    "another block": (lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()), (3, WIDTH), "0"),
}


class TestHooks:
    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("inside", [True, False], ids=["in block()", "on the stack"])
    def test_and_replaced_forwards_run(self, change: str, part: str, inside: bool) -> None:
        build, shape, name = PARTS[part]

        def block() -> nn.Module:
            module = build()
            if inside:
                CHANGES[change](module.get_submodule(name))
            return module

        net, plain = network(block, solver=exactly()), network(build, solver=exactly())
        if not inside:
            CHANGES[change](net.layers.get_submodule(name))
        plain.load_state_dict(net.state_dict())
        x = inputs(*shape)
        assert_equals_serial(net, x)
        assert not torch.allclose(net(x), plain(x))

    @pytest.mark.parametrize("grad", [True, False])
    @pytest.mark.parametrize("what", ["the input", "the output"])
    def test_that_keep_tensors_are_refused(self, what: str, grad: bool) -> None:
        """What they keep would be of no layer; to keep what is not a layer's is welcome."""
        net, x, kept = network(num_steps=4), inputs(), []

        def keep(module: nn.Module, u: tuple[Tensor], out: Tensor) -> None:
            kept.append(u[0] if what == "the input" else out)

        hook, message = net.layers.register_forward_hook(keep), r"hook of the block's module keeps.*to_sequential"
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match=message):
            net(x)
        hook.remove()
        net.layers.register_forward_hook(lambda module, u, out: kept.append(tuple(out.shape)))
        net(x)

    def test_of_all_modules_run(self) -> None:
        net, x = network(num_steps=3), inputs()
        seen: list[nn.Module] = []
        handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
        try:
            net(x)
        finally:
            handle.remove()
        assert net.layers.linear in seen

    @pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
    @pytest.mark.parametrize("part", PARTS)
    def test_of_backward_are_refused_with_the_cure(self, register: str, part: str) -> None:
        build, shape, name = PARTS[part]
        net = network(build)
        getattr(net.layers.get_submodule(name), register)(lambda *_: None)
        with pytest.raises(ValueError, match=r"has backward hooks, which would never run.*to_sequential"):
            net(inputs(*shape))
        with torch.no_grad():
            net(inputs(*shape))

    def test_of_the_network_itself_run(self) -> None:
        net, x = network(), inputs(requires_grad=True)
        y = net(x)
        (expected,) = torch.autograd.grad(y.sum(), x)
        net.register_forward_pre_hook(lambda module, arguments: (arguments[0] * 1.0,))
        net.register_forward_hook(lambda module, arguments, output: 2 * output)
        net.register_full_backward_hook(lambda module, dx, dy: (3 * dx[0],))
        (came,) = torch.autograd.grad(net(x).sum(), x)
        torch.testing.assert_close(came, 6 * expected)


def layers_of_a_call(net: LayerParallel, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> set[type]:
    kinds: set[type] = set()

    def noted(*arguments: Any) -> Any:
        layers = original(*arguments)
        kinds.add(type(layers))
        return layers

    original = stacked_call.layers_of
    monkeypatch.setattr(stacked_call, "layers_of", noted)
    net(x)
    return kinds


class TestReplacedModules:
    def test_untouched_blocks_keep_their_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert layers_of_a_call(network(), inputs(), monkeypatch) == {DenseLayers}
        assert layers_of_a_call(network(lambda: ConvBlock(2)), inputs(2, 2, 3, 3), monkeypatch) == {ConvLayers}

    def test_another_activation(self) -> None:
        net = network(solver=exactly())
        net.layers.activation = nn.Softplus()
        assert_equals_serial(net, inputs())

    def test_another_kind_of_linear_layer(self) -> None:
        class Halved(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                return super().forward(input) / 2

        net = network(solver=exactly())
        net.layers.linear.__class__ = Halved
        assert_equals_serial(net, inputs())

    def test_another_padding(self) -> None:
        def block() -> nn.Module:
            module = ConvBlock(2, activation="tanh")
            for convolution in module.convolutions:
                convolution.dilation, convolution.padding = (2, 2), (2, 2)
            return module

        assert_equals_serial(network(block, solver=exactly()), inputs(2, 2, 4, 4))


def test_the_last_to_leave_gives_attentions_fast_path_back() -> None:
    """Of two threads the first to leave is not always the last that came."""
    first, second = without_fast_path(), without_fast_path()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.mha.get_fastpath_enabled()
    second.__exit__(None, None, None)
    assert torch.backends.mha.get_fastpath_enabled()
