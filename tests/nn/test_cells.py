"""The seam of recurrent cells: what `lpgpu.nn.cells.Cell` asks for is all that a new kind of cell needs."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lpgpu import MGRIT, Serial
from lpgpu.comm import SingleProcess
from lpgpu.nn.cells import Cell, Masks
from lpgpu.nn.cells.lstm import powers
from lpgpu.nn.layout import Layout
from lpgpu.nn.propagators import Layers, Linearisation
from lpgpu.nn.sequence import SequenceModule
from lpgpu.nn.sequence_shard import SequenceShard
from tests.assertions import assert_close_relative, relative_error
from tests.nn.networks import WIDTH, exactly, inputs


class DecayLayers(Layers):
    """h⁺ = a^m ⊙ h + x, with a Jacobian of its own."""

    has_diagonal = True

    def __init__(self, x: Tensor, a: Tensor) -> None:
        self.x, self.a, self.dt = x, a, 1.0

    def advance(
        self,
        layers: slice,
        u: Tensor,
        out: Tensor,
        *,
        keep: bool = False,
        diagonal: Tensor | None = None,
        decay: Tensor | None = None,
    ) -> None:
        torch.addcmul(self.x[layers], self.a**self.dt, u, out=out)
        if diagonal is not None:
            diagonal.copy_(self.a**self.dt)

    def linearise(self, layers: slice, u: Tensor, kept: Any = None) -> Linearisation:
        return _Decay(self.a**self.dt)


class _Decay(Linearisation):
    def __init__(self, factor: Tensor) -> None:
        self.factor = factor

    def vjp(self, lam: Tensor, out: Tensor) -> None:
        torch.mul(lam, self.factor, out=out)

    def diagonal(self, out: Tensor) -> None:
        out.copy_(self.factor)

    def parameter_gradients(self, lam: Tensor) -> Sequence[Tensor | None]:
        return [lam.clone()]  # in x


class DecayCell(Cell):
    def __init__(self, w: Tensor, a: Tensor) -> None:
        self.w, self.weights = w, (a,)

    def inputs(self, x: Tensor) -> Tensor:
        return x @ self.w

    def layers(self, x: Tensor, *weights: Tensor) -> Layers:
        return DecayLayers(x.detach(), weights[0].detach())

    def gradients(self, h: Tensor, of_steps: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        (dx,) = of_steps
        assert dx is not None
        return dx, (dx * h[:-1]).sum((0, 1))

    def plain(self, x: Tensor, h_0: Tensor, *weights: Tensor) -> Tensor:
        states = [h_0]
        for x_k in x:
            states.append(weights[0] * states[-1] + x_k)
        return torch.stack(states[1:])


class Decaying(SequenceModule):
    """A network of one such cell."""

    num_layers, bidirectional, dropout = 1, False, 0.0

    def __init__(self, solver: Any) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, WIDTH, dtype=torch.float64))
        self.a = nn.Parameter(torch.rand(WIDTH, dtype=torch.float64))
        self._communicator = SingleProcess()
        self.solver = solver
        self._no_results()

    def forward(self, x: Tensor) -> Tensor:
        h_0 = x.new_zeros(x.shape[1], WIDTH)
        return self._propagate(x, [h_0], SequenceShard.of(self._communicator, x), Layout(False), None)[0]

    def _weights(self) -> dict[str, Tensor]:
        return {"w": self.w, "a": self.a}

    def _cell(self, which: int, weights: dict[str, Tensor], masks: Masks) -> Cell:
        return DecayCell(weights["w"], weights["a"])


@pytest.mark.parametrize(
    "solver",
    [Serial(), exactly(21), exactly(21, store="c_points"), exactly(21, delta="diagonal"), MGRIT(iterations=0)],
    ids=["serial", "all states", "C-points", "delta", "none, as the coarse step is exact but for its inputs"],
)
def test_a_toy_cell_trains(solver: Any) -> None:
    net, x, weight = Decaying(solver), inputs(21, 2, 3, requires_grad=True), inputs(21, 2, WIDTH)
    y = net(x)
    expected = DecayCell(net.w, net.a).plain(x @ net.w, x.new_zeros(2, WIDTH), net.a)
    if solver.hierarchy(21).grids[1:] and not solver.iterations:
        assert 1e-12 < relative_error(y, expected) < 1
        return
    assert_close_relative(y, expected)
    theta = [x, net.w, net.a]
    for came, serial in zip(*(torch.autograd.grad(each, theta, weight) for each in (y, expected)), strict=True):
        assert_close_relative(came, serial)
    assert net.forward_results[0] is not None and net.adjoint_results[0] is not None


@pytest.mark.parametrize("m", [1, 2, 3, 7, 12, 32])
def test_powers_and_their_sum(m: int) -> None:
    a = torch.tensor([0.0, 0.3, 1 - 1e-12, 1.0], dtype=torch.float64)
    power, total = powers(a, m)
    assert_close_relative(power, a**m)
    assert_close_relative(torch.as_tensor(total), sum((a**j for j in range(m)), torch.zeros_like(a)))
