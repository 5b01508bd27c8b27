"""What nobody has tried together: an existing model, its mask, dropout, stored states, chunks and coarse operators."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lpgpu import MGRIT, LayerParallel, Serial, parallelize
from lpgpu.mgrit.options import Solver
from tests.assertions import assert_close_relative
from tests.nn.networks import WIDTH, inputs
from tests.settings import exact_solver, relaxations, seeds

OPERATORS = {
    "rediscretised": {"coarse_operator": "rediscretised"},
    "Picard": {"coarse_operator": "picard"},
    "Picard 2": {"coarse_operator": "picard", "picard_order": 2},
    "linear": {"coarse_operator": "linear"},
}
LINEARISED_ELSEWHERE = (1.0, 1e-3, 1e-4, 1e-5)
"""How far gradients of Picard operators with C-points may be from those with all states, after 0, 1, 2, 3 cycles."""


class Block(nn.Module):
    """form="residual", small steps without a Δt; a mask of the call, dropout, and a tuple that is returned."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(WIDTH, WIDTH), nn.Dropout(dropout)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        f = 0.1 * self.drop(torch.tanh(self.inner(u)))
        return u + (f if mask is None else f * mask), None


class Model(nn.Module):
    """Its own loop over its blocks, which are two attributes deep."""

    def __init__(self, count: int, dropout: float) -> None:
        super().__init__()
        self.stem, self.body = nn.Linear(WIDTH, WIDTH), nn.Module()
        self.body.blocks = nn.ModuleList(Block(dropout) for _ in range(count))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        u = self.stem(x)
        for block in self.body.blocks:  # pyright: ignore[reportGeneralTypeIssues]
            u = block(u, mask=mask)[0]
        return u


class Came(NamedTuple):
    """The output, and gradients by the names of what they are of."""

    y: Tensor
    gradients: dict[str, Tensor]


class Trial(NamedTuple):
    """A parallelized model with what it is called with, in fp64."""

    model: Model
    part: LayerParallel
    x: Tensor
    mask: Tensor | None
    weight: Tensor
    seed: int

    def by(self, solver: Solver) -> Came:
        """What comes of a training step; every step draws the same."""
        torch.manual_seed(self.seed)
        self.part.solver = solver
        return derivatives(self.model, self.x, self.mask, self.weight)


def derivatives(model: Model, x: Tensor, mask: Tensor | None, weight: Tensor) -> Came:
    x, mask = x.clone().requires_grad_(), None if mask is None else mask.clone().requires_grad_()
    names = {"x": x, **({} if mask is None else {"mask": mask}), **dict(model.named_parameters())}
    y = model(x, mask)
    gradients = torch.autograd.grad(y, list(names.values()), weight)
    return Came(y.detach(), dict(zip(names, gradients, strict=True)))


def assert_same(came: Came, expected: Came, tolerance: float, what: str = "") -> None:
    assert_close_relative(came.y, expected.y, f"{what} y", tolerance=tolerance)
    for name, gradient in expected.gradients.items():
        assert_close_relative(came.gradients[name], gradient, f"{what} gradient of {name}", tolerance=tolerance)


@st.composite
def trials(draw: st.DrawFn, *, layers: tuple[int, int]) -> tuple[Trial, dict[str, Any]]:
    """A model parallelized, checked to be what it was where nothing is drawn, and options of MGRIT but the store."""
    seed = draw(seeds)
    torch.manual_seed(seed)
    dropout, masked = draw(st.sampled_from([0.0, 0.4])), draw(st.booleans())
    model = Model(draw(st.integers(*layers)), dropout).double()
    mask = inputs(2, 3, 1) if masked else None
    x, weight = inputs(2, 3, WIDTH), inputs(2, 3, WIDTH)
    before = derivatives(model, x, mask, weight)
    (part,) = parallelize(model, "body.blocks")
    trial = Trial(model, part, x, mask, weight, seed)
    if not dropout:
        serial = trial.by(Serial())
        assert_close_relative(serial.y, before.y)
        assert_close_relative(serial.gradients["x"], before.gradients["x"])
    options = {
        "levels": draw(st.integers(2, 3)),
        "coarsening": draw(st.integers(2, 4)),
        "relaxation": draw(relaxations),
        "min_coarse_steps": 1,
        **OPERATORS[draw(st.sampled_from(sorted(OPERATORS)))],
    }
    return trial, options


chunks = st.none() | st.integers(1, 4)


@settings(max_examples=12)
@given(trials(layers=(2, 9)), st.sampled_from(["all", "c_points"]), chunks)
def test_enough_cycles_are_serial_autograd(drawn: tuple[Trial, dict[str, Any]], store: Any, chunk: int | None) -> None:
    trial, options = drawn
    solver = exact_solver(trial.part.num_steps, options | {"store": store, "chunk": chunk})
    assert_same(trial.by(solver), trial.by(Serial()), tolerance=1e-12)


@settings(max_examples=12)
@given(trials(layers=(12, 18)), chunks, st.integers(0, 3))
def test_stores_agree_where_the_solve_is_inexact(
    drawn: tuple[Trial, dict[str, Any]], chunk: int | None, cycles: int
) -> None:
    """Gradients by Picard operators are as inexact as with all states, not the same: C-points linearise elsewhere."""
    trial, options = drawn
    everything = MGRIT(**options, iterations=cycles, adjoint_iterations=cycles)
    of_all, of_c_points = trial.by(everything), trial.by(replace(everything, store="c_points", chunk=chunk))
    if options["coarse_operator"] != "picard":
        assert_same(of_c_points, of_all, tolerance=1e-12)
        return
    assert_close_relative(of_c_points.y, of_all.y, "y")
    assert_same(of_c_points, of_all, tolerance=LINEARISED_ELSEWHERE[cycles])
