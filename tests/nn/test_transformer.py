"""The transformer block of the recipes: exact in the end, near at once on coarse grids by the sum of increments."""

from typing import Any

import pytest
import torch
from torch import nn

from lpgpu import MGRIT, LayerParallel
from lpgpu.nn.transformer import TransformerBlock
from tests.assertions import assert_equals_serial, derivatives, relative_error, serial_oracle
from tests.nn.networks import exactly, inputs


def deep(layers: int, solver: MGRIT, **options: Any) -> LayerParallel:
    def block() -> nn.Module:
        return TransformerBlock(8, 2, layers=layers, **options)

    return LayerParallel(None, block, layers, float(layers), form="residual", solver=solver).double()


@pytest.mark.parametrize("causal", [True, False])
def test_is_serial_propagation_after_enough_cycles(causal: bool) -> None:
    assert_equals_serial(deep(10, exactly(10), causal=causal), inputs(2, 5, 8))


def test_a_causal_block_does_not_look_ahead() -> None:
    block, x = TransformerBlock(8, 2, layers=1), torch.randn(1, 6, 8)
    y, other = block(x), x.clone()
    other[:, 4:] = torch.randn(1, 2, 8)
    assert torch.equal(block(other)[:, :4], y[:, :4])
    assert not torch.equal(block(other)[:, 4:], y[:, 4:])
    blind = TransformerBlock(8, 2, layers=1, causal=False)
    assert not torch.equal(blind(other)[:, :4], blind(x)[:, :4])


def test_the_sum_of_increments_follows_the_blocks() -> None:
    """Two levels, m = 4, F-relaxation, one cycle each way: nearer than one block's increment times m."""
    x, weight = inputs(2, 5, 8), inputs(2, 5, 8)
    net = deep(32, MGRIT())
    for theta in net.parameters():
        theta.data *= 5  # so narrow, GPT-2's weights do next to nothing
    expected = serial_oracle(net, x, weight)

    def error(operator: Any) -> float:
        net.solver = MGRIT(
            levels=2, coarsening=4, relaxation="F", coarse_operator=operator, iterations=1, adjoint_iterations=1
        )
        return relative_error(derivatives(net, x, weight).dtheta["up.weight"], expected.dtheta["up.weight"])

    assert error("picard") < 0.3 * error("rediscretised")


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads is 3, width 8"):
        TransformerBlock(8, 3, layers=1)
