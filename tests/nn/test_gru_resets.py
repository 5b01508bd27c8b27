"""Resets inside a sequence: a GRU computes what it would of the pieces one by one, all gradients included."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from lpgpu import GRU, MGRIT, Serial
from tests.assertions import assert_close_relative, assert_mentions
from tests.nn.test_gru import loop

T, B, F, H = 21, 3, 2, 4
LENGTHS = torch.tensor([21, 13, 1])
SOLVERS: dict[str, Any] = {
    "serial": Serial(),
    "rediscretised": MGRIT(coarse_operator="rediscretised", delta="none"),
    "with Δ": MGRIT(coarse_operator="rediscretised", delta="diagonal"),
    "picard": MGRIT(coarse_operator="picard"),
    "picard of order 2": MGRIT(coarse_operator="picard", picard_order=2),
    "picard to the end": MGRIT(coarse_operator="picard", picard_order=99),
    "linear": MGRIT(coarse_operator="linear", relaxation="F"),
    "C-points": MGRIT(store="c_points"),
}


def exact(solver: Any, **options: Any) -> Any:
    """The solver with cycles enough for T steps."""
    if isinstance(solver, Serial):
        return solver
    values = {**vars(solver), "levels": 3, "coarsening": 3, "iterations": T, "adjoint_iterations": T, **options}
    return MGRIT(**values)


def marks() -> Tensor:
    """Resets [T, B], also at the first and last step, and side by side; of the last sequence past its end only."""
    resets = torch.rand(T, B) < 0.2
    resets[0, 0] = resets[5:7, 0] = resets[T - 1, 0] = resets[4, 1] = resets[1:, 2] = True
    return resets


def pieces(gru: GRU, x: Tensor, hx: Tensor, lengths: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
    """Each piece of each sequence as a sequence of its own."""
    directions = 2 if gru.bidirectional else 1
    reverse = torch.arange(len(hx)) % directions == 1
    outputs, last = [], []
    for b, length in enumerate(lengths.tolist()):
        begins = [0, *(k for k in range(1, length) if resets[k, b]), length]
        of_pieces, ends = [], []
        for start, stop in pairwise(begins):
            given = (start == 0 and not resets[0, b]) * ~reverse | (stop == length) * reverse
            y, h = loop(gru, x[start:stop, b : b + 1], hx[:, b : b + 1] * given[:, None, None])
            of_pieces.append(y)
            ends.append(h)
        outputs.append(torch.cat([*of_pieces, x.new_zeros(len(x) - length, 1, directions * H)]))
        last.append(torch.where(reverse[:, None, None], ends[0], ends[-1]))
    return torch.cat(outputs, 1), torch.cat(last, 1)


@pytest.mark.parametrize("formulation", ["classic", "implicit"])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_it_is_the_pieces_one_by_one(solver: Any, formulation: Any) -> None:
    gru = GRU(F, H, 2, bidirectional=True, formulation=formulation, solver=exact(solver), dtype=torch.float64)
    x = torch.randn(T, B, F, dtype=torch.float64, requires_grad=True)
    hx = torch.randn(4, B, H, dtype=torch.float64, requires_grad=True)
    resets = marks()
    came, expected = gru(x, hx, lengths=LENGTHS, resets=resets), pieces(gru, x, hx, LENGTHS, resets)
    weights = [torch.randn_like(each) for each in expected]
    wanted = [x, hx, *gru.parameters()]
    for i, (one, other) in enumerate(zip(came, expected, strict=True)):
        assert_close_relative(one, other, f"result {i}", tolerance=1e-11)
    of_came, of_expected = (
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(ys, weights, strict=True)), wanted)  # pyright: ignore
        for ys in (came, expected)
    )
    for i, (one, other) in enumerate(zip(of_came, of_expected, strict=True)):
        assert_close_relative(one, other, f"gradient {i}", tolerance=1e-11)


@pytest.mark.parametrize(
    ("operator", "at"), [("rediscretised", [2]), ("linear", [2]), ("picard", [0, 3])], ids=["redis", "linear", "picard"]
)
def test_resets_in_every_interval_make_one_cycle_exact(operator: Any, at: list[int]) -> None:
    """Every Jacobian over an interval is zero, and so are the coarse operators'; Picard's where it is at the ends."""
    cycles: Any = {"relaxation": "F", "iterations": 1, "adjoint_iterations": 1}
    solver = MGRIT(levels=2, coarsening=4, coarse_operator=operator, **cycles)
    gru = GRU(F, H, solver=solver, dtype=torch.float64)
    x = torch.randn(24, B, F, dtype=torch.float64, requires_grad=True)
    resets = torch.zeros(24, B, dtype=torch.bool)
    for j in at:
        resets[j::4] = True
    of_came, of_exact = [], []
    for each, found in ((solver, of_came), (Serial(), of_exact)):
        gru.solver = each
        output, _ = gru(x, resets=resets)
        found += [output, *torch.autograd.grad(output.square().sum(), [x, *gru.parameters()])]
    for came, expected in zip(of_came, of_exact, strict=True):
        assert_close_relative(came, expected)


def test_nothing_passes_a_reset() -> None:
    """The output after it has no gradient by what came before, whatever the solver."""
    gru = GRU(F, H, solver=MGRIT(levels=2, coarsening=4, iterations=1), dtype=torch.float64)
    x, resets = torch.randn(T, 1, F, dtype=torch.float64, requires_grad=True), torch.zeros(T, 1, dtype=torch.bool)
    resets[6] = True
    (dx,) = torch.autograd.grad(gru(x, resets=resets)[0][6:].sum(), x)
    assert not dx[:6].any()
    assert dx[6:].all()


def test_shapes_as_the_inputs() -> None:
    gru = GRU(F, H, solver=Serial(), dtype=torch.float64)
    batch_first = GRU(F, H, batch_first=True, solver=Serial(), dtype=torch.float64)
    batch_first.load_state_dict(gru.state_dict())
    x, resets = torch.randn(T, B, F, dtype=torch.float64), marks()
    expected, _ = gru(x, resets=resets)
    assert_close_relative(batch_first(x.transpose(0, 1), resets=resets.T)[0].transpose(0, 1), expected)
    assert_close_relative(gru(x[:, 1], resets=resets[:, 1])[0], expected[:, 1])
    assert_close_relative(batch_first(x[:, 1], resets=resets[:, 1])[0], expected[:, 1])


def test_second_derivatives_of_exact_propagation() -> None:
    gru, resets = GRU(F, H, solver=Serial(), dtype=torch.float64), torch.tensor([[False], [True], [False]])
    x = torch.randn(3, 1, F, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: gru(x, resets=resets)[0], (x,))


@pytest.mark.parametrize(
    ("resets", "error", "words"),
    [
        (torch.zeros(T, B), ValueError, ["float32", "torch.bool"]),
        (torch.zeros(B, T, dtype=torch.bool), ValueError, [f"({B}, {T})", f"({T}, {B})"]),
        ([True], TypeError, ["list"]),
        (torch.zeros(T, B, dtype=torch.bool).to_sparse(), ValueError, ["resets", "sparse", "dense"]),
        (torch.zeros(T, B, dtype=torch.bool, device="meta"), ValueError, ["resets", "meta"]),
    ],
)
def test_bad_input(resets: Any, error: Any, words: list[str]) -> None:
    with pytest.raises(error) as caught:
        GRU(F, H)(torch.randn(T, B, F), resets=resets)
    assert_mentions(caught.value, words)
