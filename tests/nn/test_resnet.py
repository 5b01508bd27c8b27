"""A residual network of several ODE stages: equal to its layers one by one, in training and in eval."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, Serial
from lpgpu.nn import resnet_ode
from lpgpu.nn.resnet import StagedResNet
from tests.assertions import assert_close_relative, assert_mentions, relative_error

EXACT = MGRIT(levels=2, coarsening=2, iterations=4, adjoint_iterations=4)


def small(**options: Any) -> StagedResNet:
    options = {"widths": (2, 4, 6), "blocks": (5, 4, 3), "in_channels": 1, "solver": EXACT} | options
    return resnet_ode(3, **options).double()


def plain(net: StagedResNet) -> StagedResNet:
    """An independent copy whose stages are plain PyTorch."""
    copied = copy.deepcopy(net)
    copied.stages = nn.ModuleList(stage.to_sequential() for stage in net.stages)  # pyright: ignore
    return copied


def images(*, requires_grad: bool = False) -> Tensor:
    return torch.randn(3, 1, 9, 8, dtype=torch.float64, requires_grad=requires_grad)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize(
    "options",
    [{}, {"solver": Serial()}, {"buffer": (1, 1)}, {"solver": MGRIT(store="c_points", coarsening=2, iterations=4)}],
    ids=["all states", "serial", "buffer", "C-points"],
)
def test_it_is_its_layers_one_by_one(norm: Any, options: dict[str, Any]) -> None:
    net = small(norm=norm, **options)
    one_by_one, x = plain(net), images(requires_grad=True)
    for _ in range(2):  # the second time with other running statistics
        y, expected = net(x), one_by_one(x)
        assert_close_relative(y, expected, tolerance=1e-10)
        weight = torch.randn_like(y)
        outside = [
            (f"{part}.{name}", theta)
            for part in ("stem", "transitions", "head")
            for name, theta in net.get_submodule(part).named_parameters()
        ]
        theirs = [one_by_one.get_parameter(name) for name, _ in outside]
        came = torch.autograd.grad(y, [x, *(theta for _, theta in outside), *net.stages.parameters()], weight)
        wanted = torch.autograd.grad(expected, [x, *theirs, *one_by_one.stages.parameters()], weight)
        count = 1 + len(outside)
        for one, other in zip(came[:count], wanted[:count], strict=True):
            assert_close_relative(one, other, tolerance=1e-9)
        total = sum(float(each.square().sum()) for each in wanted[count:])
        assert abs(sum(float(each.square().sum()) for each in came[count:]) - total) <= 1e-9 * total
    net.eval(), one_by_one.eval()
    assert_close_relative(net(x), one_by_one(x), tolerance=1e-10)


def test_names_and_shapes() -> None:
    """The stages' parameters are stacked; a bias is there only without a norm."""
    shapes = {name: tuple(value.shape) for name, value in small().state_dict().items()}
    assert shapes["stem.weight"] == (2, 1, 3, 3)
    assert shapes["stages.1.layers.first.2.weight"] == (4, 4, 4, 3, 3)
    assert shapes["stages.2.layers.second.0.running_var"] == (3, 6)
    assert shapes["transitions.1.2.weight"] == (6, 4, 3, 3)
    assert not any(name.endswith("2.bias") for name in shapes)
    assert "stages.0.layers.first.2.bias" in small(norm="none").state_dict()
    assert small(buffer=(1, 1)).state_dict().keys() == shapes.keys()


def test_stages_halve_the_image_and_an_inexact_solve_is_near() -> None:
    """One cycle on each stage; the sizes are those of the states between."""
    net = small(blocks=16, solver=MGRIT(levels=2, coarsening=4, iterations=1, adjoint_iterations=1))
    seen: list[tuple[int, ...]] = []
    for stage in net.stages:
        stage.register_forward_hook(lambda module, args, y: seen.append(tuple(y.shape)))
    x = images()
    came, exact = net(x), plain(net)(x)
    assert seen == [(3, 2, 9, 8), (3, 4, 5, 4), (3, 6, 3, 2)]
    assert 1e-14 < relative_error(came, exact) < 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": (5, 4)}, ["blocks is (5, 4)", "(2, 4, 6)"]),
        ({"blocks": 0}, ["blocks is 0"]),
        ({"widths": ()}, ["widths ()"]),
        ({"norm": "layer"}, ["norm is 'layer'", "'group'"]),
        ({"widths": 16}, ["widths is 16", "(16, 32, 64)"]),
        ({"widths": (2, 4.0, 6)}, ["widths", "4.0", "integer"]),
        ({"widths": (2, 0, 6)}, ["widths", "0", "at least 1"]),
        ({"blocks": 2.5}, ["blocks is 2.5"]),
        ({"blocks": True}, ["blocks is True"]),
        ({"blocks": (5, 4, "3")}, ["blocks", "'3'", "integer"]),
        ({"in_channels": 0}, ["in_channels", "0", "at least 1"]),
    ],
)
def test_bad_input(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        small(**options)
    assert_mentions(caught.value, words)
