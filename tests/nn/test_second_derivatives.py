"""Derivatives of derivatives: plain PyTorch's where propagation is exact, an error elsewhere; never a constant."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.autograd.functional import hessian, hvp, jacobian

from lpgpu import GRU, MGRIT, LayerParallel, Serial
from lpgpu.nn import ConvBlock
from tests.assertions import assert_close_relative
from tests.nn.networks import BLOCKS, WIDTH, inputs, network

EXACT: dict[str, Any] = {"Serial": Serial(), "one level": MGRIT(levels=1), "too few layers": MGRIT(min_coarse_steps=99)}
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda y: y.sum(),
    "mean": lambda y: y.mean(),
    "squares": lambda y: y.square().sum(),
}


def penalty(net: Callable[[Tensor], Tensor], loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """‖∂loss/∂x‖², to be differentiated again."""
    (dx,) = grad(loss(net(x)), x, create_graph=True)
    return dx.square().sum()


class TestLayerParallel:
    @pytest.mark.parametrize("solver", EXACT)
    @pytest.mark.parametrize("loss", LOSSES)
    def test_a_gradient_penalty_is_that_of_the_sequential_network(self, solver: str, loss: str) -> None:
        """With sum and mean the gradient that comes in wants none itself."""
        net, x = network(num_steps=6, solver=EXACT[solver]), inputs(requires_grad=True)
        sequential = net.to_sequential()
        penalty(sequential, LOSSES[loss], x).backward()
        expected, x.grad = x.grad, None
        penalty(net, LOSSES[loss], x).backward()
        assert_close_relative(x.grad, expected)
        expected = torch.stack([step.block.linear.weight.grad for step in sequential])  # pyright: ignore
        assert_close_relative(net.layers.linear.weight.grad, expected)  # pyright: ignore

    @pytest.mark.parametrize("block", BLOCKS)
    def test_of_every_kind_of_block(self, block: str) -> None:
        build, form, shape = BLOCKS[block]
        net = network(build, 3, form=form, solver=Serial())
        parameters = tuple(p.detach().requires_grad_() for p in net.layers.parameters())
        names = [f"layers.{name}" for name, _ in net.layers.named_parameters()]

        def of_all(x: Tensor, *parameters: Tensor) -> Tensor:
            return torch.func.functional_call(net, dict(zip(names, parameters, strict=True)), (x,))

        x = inputs(*shape, requires_grad=True)
        assert gradcheck(of_all, (x, *parameters), fast_mode=True)
        assert gradgradcheck(of_all, (x, *parameters), fast_mode=True)

    def test_convolutions(self) -> None:
        net = network(lambda: ConvBlock(2, activation="tanh"), 3, solver=Serial())
        assert gradgradcheck(net, (inputs(2, 2, 3, 3, requires_grad=True),))

    def test_hessians_behind_a_stem(self) -> None:
        stem, net = nn.Linear(WIDTH, WIDTH, dtype=torch.float64), network(num_steps=6, solver=Serial())
        sequential, x, v = net.to_sequential(), inputs(), inputs()

        def loss(net: nn.Module) -> Callable[[Tensor], Tensor]:
            return lambda x: net(stem(x)).sum()

        assert_close_relative(hessian(loss(net), x), hessian(loss(sequential), x))
        assert_close_relative(hvp(loss(net), x, v)[1], hvp(loss(sequential), x, v)[1])

    def test_weights_that_depend_on_the_input_count_once(self) -> None:
        net, x = network(num_steps=3, solver=Serial()), inputs(requires_grad=True)
        theta = {f"layers.{name}": p.detach() * x.mean() for name, p in net.layers.named_parameters()}

        def dx(net: LayerParallel, create_graph: bool) -> Tensor:
            y = torch.func.functional_call(net, theta, (x,))
            return grad(y.sum(), x, create_graph=create_graph, retain_graph=True)[0]

        assert_close_relative(dx(net, True), dx(net, False))

    @pytest.mark.parametrize("loss", LOSSES)
    def test_of_an_inexact_solve_they_are_refused(self, loss: str) -> None:
        net, x = network(), inputs(requires_grad=True)
        with pytest.raises(RuntimeError, match=r"second derivative.*solver = Serial\(\).*to_sequential"):
            grad(LOSSES[loss](net(x)), x, create_graph=True)

    def test_an_input_changed_in_place_is_noticed(self) -> None:
        net, x = network(num_steps=3, solver=Serial()), inputs()
        y = net(x)
        x.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            grad(y.sum(), list(net.parameters()), create_graph=True)


class TestGRU:
    @pytest.mark.parametrize("formulation", ["implicit", "classic"])
    @pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}], ids=str)
    def test_gradgradcheck(self, formulation: Any, options: dict[str, Any]) -> None:
        gru = GRU(3, 2, **options, formulation=formulation, dt=0.7, solver=Serial(), dtype=torch.float64)
        names, weights = zip(*gru.named_parameters(), strict=True)

        def of_all(x: Tensor, h_0: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
            return torch.func.functional_call(gru, dict(zip(names, weights, strict=True)), (x, h_0))

        h_0 = inputs(len(gru.forward_results), 2, 2, requires_grad=True)
        arguments = (inputs(4, 2, 3, requires_grad=True), h_0, *(w.detach().requires_grad_() for w in weights))
        assert gradcheck(of_all, arguments, fast_mode=True)
        assert gradgradcheck(of_all, arguments, fast_mode=True)

    def test_a_gradient_penalty_is_torchs(self) -> None:
        ours, theirs = GRU(3, 4, formulation="classic", solver=Serial()).double(), nn.GRU(3, 4).double()
        ours.load_state_dict(theirs.state_dict())
        x = inputs(6, 2, 3, requires_grad=True)
        for gru in (ours, theirs):
            penalty(lambda x, gru=gru: gru(x)[0], lambda y: y.sum(), x).backward()
        for came, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert (came.grad is None) == (expected.grad is None)
            if expected.grad is not None:
                assert_close_relative(came.grad, expected.grad)  # pyright: ignore

    def test_padded_sequences(self) -> None:
        """The gate of a past-the-end step is infinite; its derivatives are not."""
        gru = GRU(3, 2, solver=Serial(), dtype=torch.float64)
        lengths = torch.tensor([2, 4])
        assert gradgradcheck(lambda x: gru(x, lengths=lengths), (inputs(4, 2, 3, requires_grad=True),))

    def test_of_an_inexact_solve_they_are_refused(self) -> None:
        x = inputs(20, 2, 3, requires_grad=True)
        output, _ = GRU(3, 4, dtype=torch.float64)(x)
        with pytest.raises(RuntimeError, match=r"second derivative.*solver = Serial\(\)"):
            grad(output.sum(), x, create_graph=True)


class TestManyLossesAtOnce:
    @pytest.mark.parametrize("solver", [Serial(), MGRIT()], ids=["Serial", "MGRIT"])
    @pytest.mark.parametrize("block", ["dense", "step with gate and buffer"])
    def test_a_vectorized_jacobian_is_the_jacobian(self, solver: Any, block: str) -> None:
        build, form, _ = BLOCKS[block]
        net, x = network(build, form=form, solver=solver), inputs(2, WIDTH)
        assert_close_relative(jacobian(net, x, vectorize=True), jacobian(net, x))

    @pytest.mark.parametrize("frozen", [False, True])
    def test_batched_gradients_of_parameters(self, frozen: bool) -> None:
        net, x = network(), inputs(requires_grad=True)
        if frozen:
            next(net.layers.parameters()).requires_grad_(False)
        wanted = (x, *(p for p in net.parameters() if p.requires_grad))
        y, losses = net(x), inputs(5, 3, WIDTH)
        came = grad(y, wanted, losses, is_grads_batched=True, retain_graph=True)
        expected = zip(*(grad(y, wanted, each, retain_graph=True) for each in losses), strict=True)
        for one, other in zip(came, expected, strict=True):
            assert_close_relative(one, torch.stack(other))

    @pytest.mark.parametrize("solver", [Serial(), MGRIT()], ids=["Serial", "MGRIT"])
    def test_a_gru(self, solver: Any) -> None:
        gru, x = GRU(3, 2, 2, solver=solver, dtype=torch.float64), inputs(12, 1, 3)

        def end(x: Tensor) -> Tensor:
            return gru(x)[1]

        assert_close_relative(jacobian(end, x, vectorize=True), jacobian(end, x))

    def test_a_vectorized_hessian(self) -> None:
        net, x = network(num_steps=3, solver=Serial()), inputs(1, WIDTH)

        def loss(x: Tensor) -> Tensor:
            return net(x).square().sum()

        assert_close_relative(hessian(loss, x, vectorize=True), hessian(loss, x))
