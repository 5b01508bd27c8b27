"""Blocks with kernels of their own are plain modules elsewhere, and take their kernels inside LayerParallel."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from lpgpu.nn import Activate, ConvBlock, DenseBlock
from lpgpu.nn.propagators import layers_of
from lpgpu.nn.propagators.conv import ConvLayers
from lpgpu.nn.propagators.dense import DenseLayers
from lpgpu.nn.propagators.functional import FunctionalLayers
from tests.assertions import assert_close_relative, assert_equals_serial, assert_same_derivatives, derivatives
from tests.nn.networks import exactly, inputs, network

ACTIVATIONS = ["tanh", "relu", "smooth_relu", "silu", "identity"]


class DenseLike(DenseBlock):
    """A subclass may compute anything: it takes the general path."""


class ConvLike(ConvBlock):
    """As DenseLike."""


def layers_for(block: nn.Module, x: Tensor, scheme: str = "euler", form: str = "rhs"):
    stacked = {name: parameter[None] for name, parameter in block.named_parameters()}
    return layers_of(block, stacked, x, scheme, form, 1.0)


class TestWhichPathIsTaken:
    @pytest.mark.parametrize("bias", [True, False])
    def test_dense(self, bias: bool) -> None:
        assert isinstance(layers_for(DenseBlock(3, bias=bias), torch.zeros(2, 3)), DenseLayers)

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("convolutions", [1, 2])
    def test_convolution(self, convolutions: int, bias: bool) -> None:
        layers = layers_for(ConvBlock(3, convolutions, bias=bias), torch.zeros(2, 3, 4, 4))
        assert isinstance(layers, ConvLayers)
        assert len(layers.filters) == convolutions

    @pytest.mark.parametrize(
        ("block", "shape", "scheme", "form"),
        [
            (DenseBlock(3), (2, 5, 3), "euler", "rhs"),
            (DenseBlock(3), (2, 3), "midpoint", "rhs"),
            (DenseBlock(3), (2, 3), "rk4", "rhs"),
            (DenseBlock(3), (2, 3), "euler", "step"),
            (DenseLike(3), (2, 3), "euler", "rhs"),
            (ConvBlock(3), (2, 3, 4, 4), "rk4", "rhs"),
            (ConvLike(3), (2, 3, 4, 4), "euler", "rhs"),
            (nn.Linear(3, 3), (2, 3), "euler", "rhs"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
    )
    def test_general(self, block: nn.Module, shape: tuple[int, ...], scheme: str, form: str) -> None:
        assert type(layers_for(block, torch.zeros(shape), scheme, form)) is FunctionalLayers

    @pytest.mark.parametrize("name", ["weight", "bias"])
    def test_general_where_a_weight_is_made_of_others(self, name: str) -> None:
        dense, convolution = DenseBlock(3), ConvBlock(3)
        register_parametrization(dense.linear, name, nn.Tanh())
        register_parametrization(convolution.convolutions[1], name, nn.Tanh())
        assert type(layers_for(dense, torch.zeros(2, 3))) is FunctionalLayers
        assert type(layers_for(convolution, torch.zeros(2, 3, 4, 4))) is FunctionalLayers


class TestPathsAgree:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("bias", [True, False])
    def test_dense(self, activation: str, bias: bool) -> None:
        fused = network(lambda: DenseBlock(4, activation, bias=bias))
        general = network(lambda: DenseLike(4, activation, bias=bias))
        general.load_state_dict(fused.state_dict())
        x, weight = inputs(), inputs()
        assert_same_derivatives(derivatives(fused, x, weight), derivatives(general, x, weight))

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize(("convolutions", "bias"), [(1, True), (1, False), (2, True), (2, False)])
    def test_convolution(self, activation: str, convolutions: int, bias: bool) -> None:
        fused = network(lambda: ConvBlock(2, convolutions, activation, bias=bias))
        general = network(lambda: ConvLike(2, convolutions, activation, bias=bias))
        general.load_state_dict(fused.state_dict())
        x, weight = inputs(2, 2, 3, 4), inputs(2, 2, 3, 4)
        assert_same_derivatives(derivatives(fused, x, weight), derivatives(general, x, weight))

    @pytest.mark.parametrize("store", ["all", "c_points"])
    @pytest.mark.parametrize("chunk", [None, 1, 2])
    @pytest.mark.parametrize("activation", ["tanh", "silu"])
    def test_what_the_forward_sweep_kept_is_of_the_final_states(self, activation: str, store: Any, chunk: Any) -> None:
        solver = exactly(store=store, chunk=chunk)
        assert_equals_serial(network(lambda: DenseBlock(4, activation), solver=solver), inputs())
        assert_equals_serial(network(lambda: ConvBlock(2, 2, activation), solver=solver), inputs(2, 2, 3, 3))


class TestAsPlainModules:
    def test_dense_is_a_linear_layer_and_its_activation(self) -> None:
        block = DenseBlock(4).double()
        u = inputs(2, 3, 4)
        assert_close_relative(block(u), torch.tanh(F.linear(u, block.linear.weight, block.linear.bias)))

    def test_convolution_is_convolutions_and_their_activation(self) -> None:
        block = ConvBlock(2, 2, "relu").double()
        u = inputs(2, 2, 4, 5)
        expected = u
        for convolution in block.convolutions:
            expected = torch.relu(F.conv2d(expected, convolution.weight, convolution.bias, padding=1))
        assert_close_relative(block(u), expected)

    def test_initialisation_is_torchs(self, seed: int) -> None:
        torch.manual_seed(seed)
        block = DenseBlock(4)
        torch.manual_seed(seed)
        assert torch.equal(block.linear.weight, nn.Linear(4, 4).weight)
        torch.manual_seed(seed)
        block = ConvBlock(3, 1)
        torch.manual_seed(seed)
        assert torch.equal(block.convolutions[0].weight, nn.Conv2d(3, 3, 3, padding=1).weight)  # pyright: ignore

    def test_dtype_and_bias(self) -> None:
        block = DenseBlock(3, bias=False, dtype=torch.float64)
        assert {name: parameter.dtype for name, parameter in block.named_parameters()} == {
            "linear.weight": torch.float64
        }
        assert len(list(ConvBlock(3, 2, bias=False).parameters())) == 2

    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_activations_have_their_derivative(self, name: str) -> None:
        assert torch.autograd.gradcheck(Activate(name), inputs(3, 4, requires_grad=True))

    def test_they_say_what_they_are(self) -> None:
        assert "smooth_relu" in repr(DenseBlock(3, "smooth_relu"))
        assert repr(copy.deepcopy(ConvBlock(3))) == repr(ConvBlock(3))
