"""What is meant for one layer reaches each layer: initialisation by apply, weight decay; or is refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lpgpu import GRU, LayerParallel, param_groups
from lpgpu.nn import DenseBlock
from lpgpu.nn.per_layer import apply_to_layers
from lpgpu.nn.stacking import stack
from tests.assertions import assert_close_relative, assert_equals_serial
from tests.nn.networks import BLOCKS, WIDTH, exactly, inputs, mlp, network


def xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.normal_(module.bias)


def reset(module: nn.Module) -> None:
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()  # pyright: ignore


def tied() -> nn.Module:
    one, other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    other.weight = one.weight
    return nn.Sequential(one, nn.Tanh(), other)


def weights(net: LayerParallel) -> list[Tensor]:
    return [p.detach().clone() for p in net.layers.parameters()]


def assert_layers_are_those_of(net: LayerParallel, sequential: nn.Sequential) -> None:
    for name, stacked in net.layers.named_parameters():
        assert torch.equal(stacked, torch.stack([step.block.get_parameter(name) for step in sequential]))  # pyright: ignore


class TestApply:
    @pytest.mark.parametrize("init", [xavier, reset])
    @pytest.mark.parametrize("block", [*BLOCKS, "tied"])
    def test_initialises_every_layer_as_the_sequential_network_does(self, block: str, init: Any, seed: int) -> None:
        build, form, _ = BLOCKS.get(block, (tied, "rhs", ()))
        model = nn.Sequential(nn.Linear(3, WIDTH), network(build, 7, form=form), nn.Linear(WIDTH, 2))
        sequential = nn.Sequential(copy.deepcopy(model[0]), model[1].to_sequential(), copy.deepcopy(model[2]))  # pyright: ignore
        before = weights(model[1])  # pyright: ignore
        torch.manual_seed(seed)
        model.apply(init)
        torch.manual_seed(seed)
        sequential.apply(init)
        assert_layers_are_those_of(model[1], sequential[1])  # pyright: ignore
        assert torch.equal(model[2].weight, sequential[2].weight), "and what comes after it is drawn as after it"
        assert block == "no parameters" or not all(map(torch.equal, before, weights(model[1])))  # pyright: ignore

    def test_a_fan_is_that_of_one_layer(self) -> None:
        net = LayerParallel(None, lambda: DenseBlock(64), 64, 1.0)
        net.apply(xavier)
        assert float(net.layers.linear.weight.detach().std()) == pytest.approx((2 / 128) ** 0.5, rel=0.02)  # pyright: ignore

    @pytest.mark.parametrize("blocks", [[4, 5], [1, 8], [3, 3, 3], [9]])
    def test_ranks_draw_as_one_process(self, blocks: list[int], seed: int) -> None:
        """Each has only its own layers, but all generators end in one state."""
        whole = stack(mlp, range(9), 0)
        torch.manual_seed(seed)
        apply_to_layers(whole, xavier, range(9), 9)
        state = torch.get_rng_state()
        parts, first = [], 0
        for size in blocks:
            part = stack(mlp, range(first, first + size), 0)
            torch.manual_seed(seed)
            apply_to_layers(part, xavier, range(first, first + size), 9)
            assert torch.equal(torch.get_rng_state(), state)
            parts.append(part)
            first += size
        for name, theta in whole.named_parameters():
            assert torch.equal(theta, torch.cat([part.get_parameter(name) for part in parts]))

    def test_meets_the_weights_that_are_there(self) -> None:
        net = network(mlp, 5)
        before = weights(net)
        with torch.no_grad():
            net.apply(lambda m: m.weight.mul_(2) if isinstance(m, nn.Linear) else None)
        for name, theta, was in zip(dict(net.layers.named_parameters()), net.layers.parameters(), before, strict=True):
            assert torch.equal(theta, 2 * was if "weight" in name else was)

    def test_every_layer_is_met_once_in_order(self) -> None:
        net = network(mlp, 3)
        kinds: list[str] = []
        assert net.apply(lambda m: kinds.append(type(m).__name__)) is net
        assert kinds == ["Linear", "Tanh", "Linear", "Sequential"] * 3 + ["LayerParallel"]

    def test_keeps_optimizers_modes_flags_and_hooks(self) -> None:
        net = network(mlp, 5, solver=exactly())
        parameters = list(net.parameters())

        def freeze(module: nn.Module) -> None:
            module.eval()
            if isinstance(module, nn.Linear):
                module.weight.requires_grad_(False)
                module.register_forward_hook(lambda *_: calls.append(1))

        calls: list[int] = []
        net.apply(freeze)
        assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))
        assert not any(part.training for part in net.modules())
        assert [p.requires_grad for p in net.layers.parameters()] == [False, True, False, True]
        assert [len(part._forward_hooks) for part in net.layers] == [1, 0, 1]  # pyright: ignore
        assert_equals_serial(net.requires_grad_(), inputs())

    @pytest.mark.parametrize(
        "fn",
        [
            lambda m: parametrizations.weight_norm(m) if isinstance(m, nn.Linear) else None,
            lambda m: m.half(),
            lambda m: setattr(m, "weight", nn.Parameter(torch.ones(2, WIDTH))) if isinstance(m, nn.Linear) else None,
        ],
        ids=["names", "dtypes", "shapes"],
    )
    def test_what_changes_more_than_values_is_refused(self, fn: Callable[[nn.Module], Any]) -> None:
        with pytest.raises(ValueError, match=r"apply may change the values.*it changed .*weight.*inside block\(\)"):
            network(mlp, 5).apply(fn)

    def test_layers_made_unlike_are_refused(self) -> None:
        def number(module: nn.Module) -> None:
            numbers.append(len(numbers))
            module.number = numbers[-1]  # pyright: ignore

        numbers: list[int] = []
        with pytest.raises(ValueError, match=r"apply made layer 1 unlike layer 0(.|\n)*number = "):
            network(mlp, 5).apply(number)

    def test_a_weight_drawn_before_backward_is_noticed(self) -> None:
        net = network(mlp, 5)
        y = net(inputs())
        net.apply(xavier)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


class TestResetParameters:
    @pytest.mark.parametrize("block", [mlp, lambda: nn.MultiheadAttention(WIDTH, 2)], ids=["linear", "attention"])
    def test_of_a_stack_is_refused_with_a_cure_that_works(self, block: Callable[[], nn.Module]) -> None:
        net = LayerParallel(None, block, 5, 1.0)
        parts = [m for m in net.modules() if hasattr(m, "reset_parameters") or hasattr(m, "_reset_parameters")]
        assert parts
        for part in parts:
            method = part.reset_parameters if hasattr(part, "reset_parameters") else part._reset_parameters
            with pytest.raises(RuntimeError, match="layer by layer, by the network's apply"):
                method()  # pyright: ignore
        before = weights(net)
        net.apply(reset)
        assert not all(map(torch.equal, before, weights(net)))

    def test_of_one_layer_is_the_modules_own(self) -> None:
        for step in network(mlp, 3).to_sequential():
            assert not any("reset_parameters" in vars(part) for part in step.modules())

    def test_copies_of_the_network_keep_the_refusal(self) -> None:
        with pytest.raises(RuntimeError, match="layer by layer"):
            copy.deepcopy(network(mlp, 3)).layers[0].reset_parameters()  # pyright: ignore


class TestParameterGroups:
    def test_decay_goes_by_the_shapes_of_one_layer(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
                self.gain = nn.Parameter(torch.ones(()))

            def forward(self, u: Tensor) -> Tensor:
                return self.gain * self.linear(self.norm(u))

        net = nn.ModuleDict(
            {"stem": nn.Conv2d(1, 2, 3), "deep": network(Block, 5), "gru": GRU(2, 3), "norm": nn.LayerNorm(3)}
        )
        names = {id(p): name for name, p in net.named_parameters()}
        decayed, others = param_groups(net, 0.1)
        assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
        assert {names[id(p)] for p in decayed["params"]} == {
            "stem.weight", "deep.layers.linear.weight", "gru.weight_ih_l0", "gru.weight_hh_l0",
        }  # fmt: skip
        assert len(decayed["params"]) + len(others["params"]) == len(names)

    def test_stacked_biases_do_not_decay(self) -> None:
        net = network(mlp, 5)
        before = weights(net)
        optimizer = torch.optim.AdamW(param_groups(net, 0.5), lr=0.1)
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for name, theta, was in zip(dict(net.layers.named_parameters()), net.layers.parameters(), before, strict=True):
            assert_close_relative(theta, 0.95 * was if "weight" in name else was)

    def test_one_of_them_may_be_empty(self) -> None:
        assert len(param_groups(network(lambda: DenseBlock(WIDTH, bias=False), 5), 0.1)) == 1

    def test_a_negative_decay_is_refused(self) -> None:
        with pytest.raises(ValueError, match="weight_decay is -1; expected a number ≥ 0"):
            param_groups(network(), -1)
