"""What a network keeps in memory, measured as allocated bytes: between forward and backward, and while recomputing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from lpgpu import GRU, MGRIT, LayerParallel
from lpgpu.mgrit import AllPoints, CPointsOnly, States, solve
from lpgpu.nn import DenseBlock
from lpgpu.nn.memory import Allocations, peak_bytes
from lpgpu.nn.propagators import AdjointPropagator, ForwardPropagator, general_layers_of, layers_of
from tests.assertions import assert_same_derivatives, derivatives
from tests.nn.networks import BLOCKS, WIDTH, inputs, network
from tests.settings import cycle_kinds, relaxations

BATCH = 128
"""So many rows that states dwarf parameters and figures."""


def wide(block: str, layers: int = 35) -> tuple[LayerParallel, Tensor, int]:
    """A network of, by default, 32 + 3 layers, an input of many rows, and the bytes of one of its states."""
    build, form, (_, *shape) = BLOCKS[block]
    x = inputs(BATCH, *shape)
    return network(build, layers, form=form), x, x.numel() * x.element_size()


def kept_states(net: LayerParallel, x: Tensor, **options: Any) -> float:
    """What lives between forward and backward besides the output, in states."""
    net.solver = MGRIT(levels=2, **options)
    with Allocations() as memory:
        before = memory.reset_peak()
        y = net(x)
        kept = memory.reset_peak() - before - y.untyped_storage().nbytes()
    assert y.requires_grad
    return kept / (x.numel() * x.element_size())


@pytest.mark.parametrize("block", ["dense", "two linear layers", "step with gate and buffer"])
@pytest.mark.parametrize("coarsening", [2, 4, 16])
def test_c_points_only_keeps_no_more_than_them_and_the_last_point(block: str, coarsening: int) -> None:
    net, x, _ = wide(block)
    at_most = -(-35 // coarsening) + 1
    assert at_most - 1 <= kept_states(net, x, store="c_points", coarsening=coarsening) < at_most + 0.5


@pytest.mark.parametrize("block", ["dense", "two linear layers"])
def test_all_keeps_all(block: str) -> None:
    net, x, _ = wide(block)
    assert kept_states(net, x, store="all") >= 36


@pytest.mark.parametrize("block", ["dense", "two linear layers"])
@pytest.mark.parametrize("store", ["all", "c_points"])
def test_nothing_is_kept_where_no_gradient_is_wanted(block: str, store: Any) -> None:
    net, x, state = wide(block)
    net.solver = MGRIT(store=store)
    with Allocations() as memory, torch.no_grad():
        before = memory.reset_peak()
        y = net(x)
        assert memory.reset_peak() - before - y.untyped_storage().nbytes() < state / 2


@pytest.mark.parametrize("block", ["dense", "two linear layers"])
@pytest.mark.parametrize("store", ["all", "c_points"])
def test_backward_lets_go_of_the_states(block: str, store: Any) -> None:
    """As PyTorch's own graph does, though the output still lives: loops hold on to their last loss."""
    net, x, state = wide(block)
    net.solver = MGRIT(store=store)
    with Allocations() as memory:
        y = net(x)
        y.sum().backward()
        gradients = sum(parameter.grad.nbytes for parameter in net.parameters())  # pyright: ignore
        left = memory.reset_peak() - y.untyped_storage().nbytes() - gradients
    assert left < state


def peaks(net: LayerParallel, x: Tensor, solver: MGRIT) -> tuple[int, int]:
    """The most bytes at a time during forward, and during backward."""
    net.solver = solver
    net.zero_grad()
    with Allocations() as memory:
        before = memory.reset_peak()
        y = net(x)
        forward = memory.peak - before
        before = memory.reset_peak()
        y.sum().backward()
        return forward, memory.peak - before


@pytest.mark.parametrize("block", ["dense", "two linear layers"])
def test_the_chunk_bounds_the_scratch_memory(block: str) -> None:
    net, x, _ = wide(block)
    by_chunk = {
        chunk: peaks(net, x, MGRIT(levels=2, coarsening=4, store="c_points", chunk=chunk)) for chunk in (1, 3, 9)
    }
    for of_forward_or_backward in (0, 1):
        one, three, nine = (by_chunk[chunk][of_forward_or_backward] for chunk in (1, 3, 9))
        assert one <= three < nine  # with few, the states of the coarse problem are the most there is


def test_c_points_only_needs_less_memory_at_its_peak() -> None:
    net, x, _ = wide("dense")
    everything = peaks(net, x, MGRIT(levels=2, coarsening=8, store="all"))
    c_points = peaks(net, x, MGRIT(levels=2, coarsening=8, store="c_points"))
    assert c_points[0] < everything[0] / 2
    assert c_points[1] < everything[1]


@pytest.mark.parametrize(("coarsening", "most"), [(4, 117), (8, 103), (16, 74)])
def test_c_points_only_needs_less_than_a_checkpoint_for_every_layer(coarsening: int, most: int) -> None:
    """Three states a C-point, two windows of m states, and the gradients; `most` is two states above what it took."""
    net, x, state = wide("two linear layers", 128)
    net.solver = MGRIT(levels=2, coarsening=coarsening, store="c_points")
    layers = net.to_sequential()

    def with_checkpoints(x: Tensor) -> Tensor:
        return checkpoint_sequential(layers, len(layers), x.requires_grad_(), use_reentrant=False)

    def peak(forward: Callable[[Tensor], Tensor]) -> int:
        return peak_bytes(lambda: forward(x).sum().backward(), x.device)

    assert peak(net) < most * state
    assert peak(with_checkpoints) > 128 * state


def test_dense_layers_step_onto_c_points_a_few_at_a_time() -> None:
    """Linearisations of all C-layers at once would be two or more states for each."""
    net, x, state = wide("dense", 64)
    net.solver = MGRIT(levels=2, coarsening=4, store="c_points")
    net.zero_grad()
    assert peak_bytes(lambda: net(x).sum().backward(), x.device) < (3 * 16 + 20) * state


def test_recomputed_graphs_keep_what_is_still_asked_for() -> None:
    """Of two hidden layers of sixteen states: their inputs; for parameters their outputs too, until they are used."""
    wide = 16 * WIDTH
    block = nn.Sequential(nn.Linear(WIDTH, wide), nn.GELU(), nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, WIDTH))
    x, lam = torch.randn(2, 1, 10 * BATCH, WIDTH)
    stacked = {name: values.detach()[None].requires_grad_() for name, values in block.named_parameters()}
    once = general_layers_of(block, stacked, x[0], "euler", "rhs", 1.0).linearise_once(slice(0, 1), x)

    def peak(compute: Callable[[], object]) -> float:
        return peak_bytes(compute, x.device) / x.nbytes

    assert 4 * 16 < peak(lambda: once.vjp(lam, torch.empty_like(lam))) < 4 * 16 + 4
    assert 5 * 16 < peak(lambda: once.parameter_gradients(lam)) < 5 * 16 + 6


@pytest.mark.parametrize(
    ("num_steps", "coarsening", "chunk"),
    [(128, 2, 1), (128, 4, 1), (128, 8, 2), (128, 16, 1), (1024, 4, 12), (1024, 8, 20), (1024, 16, 15), (5, 8, 1)],
)
def test_windows_take_three_quarters_of_what_c_points_leave_of_a_state_for_every_layer(
    num_steps: int, coarsening: int, chunk: int
) -> None:
    grid = MGRIT(levels=2, coarsening=coarsening).hierarchy(num_steps).grids[0]
    assert CPointsOnly(grid, lambda points: torch.empty(points, 1)).chunk == chunk


@settings(max_examples=20)
@given(
    num_steps=st.integers(1, 40),
    coarsening=st.integers(2, 6),
    chunk=st.none() | st.integers(1, 5),
    cycle=cycle_kinds,
    seed=st.integers(0, 2**32 - 1),
)
def test_stores_compute_the_same_inexact_gradients(
    num_steps: int, coarsening: int, chunk: int | None, cycle: Any, seed: int
) -> None:
    torch.manual_seed(seed)
    net, x, weight = network(num_steps=num_steps), inputs(), inputs()
    same = {"coarsening": coarsening, "cycle": cycle, "coarse_operator": "rediscretised"}
    net.solver = MGRIT(**same)
    expected = derivatives(net, x, weight)
    net.solver = MGRIT(**same, store="c_points", chunk=chunk)
    assert_same_derivatives(derivatives(net, x, weight), expected)


@given(
    num_steps=st.integers(8, 40),
    coarsening=st.integers(2, 4),
    chunk=st.none() | st.integers(1, 5),
    cycles=st.integers(0, 2),
    relaxation=relaxations,
    initial_guess=st.sampled_from(["coarse", "constant"]),
)
@settings(max_examples=20)
def test_recomputation_costs_one_forward_sweep_for_each_adjoint_sweep(
    num_steps: int, coarsening: int, chunk: int | None, cycles: int, relaxation: Any, initial_guess: Any
) -> None:
    """N − ⌊N/m⌋ each: for the guess's sweep, for 1 (F) or 2 (FCF) in each cycle, and for the gradients.

    Where the last interval is a single layer, which leads to a C-point, the cycles' sweeps have nothing to do there.
    """
    solver = MGRIT(
        coarsening=coarsening,
        relaxation=relaxation,
        adjoint_iterations=cycles,
        initial_guess=initial_guess,
        store="c_points",
        chunk=chunk,
    )
    net, x = network(num_steps=num_steps), inputs()
    hierarchy = solver.hierarchy(num_steps)
    layers = layers_of(net.layers, dict(net.layers.named_parameters()), x, net.scheme, net.form, net.dt)

    def c_points_only(grid) -> States:
        states = CPointsOnly(grid, lambda points: layers.empty_states(points, x), chunk)
        states.start.copy_(x)
        return states

    u, lam = c_points_only(hierarchy.grids[0]), c_points_only(hierarchy.transpose().grids[0])
    forward = ForwardPropagator(layers, len(hierarchy.grids))
    solve(forward, hierarchy, u, solver)
    solved = forward.work.evaluations[0]
    adjoint = AdjointPropagator(forward, hierarchy.grids[0], u)
    solve(adjoint, hierarchy.transpose(), lam, solver)
    adjoint.parameter_gradients(lam)
    in_cycles, layers_swept = cycles * (1 if relaxation == "F" else 2), num_steps - num_steps // coarsening
    single_layer = num_steps % coarsening == 1
    expected = (2 + in_cycles) * layers_swept - in_cycles * single_layer
    assert forward.work.evaluations[0] - solved == expected


@given(num_steps=st.integers(1, 70), coarsening=st.integers(2, 9), reverse=st.booleans())
def test_c_points_only_has_room_for_its_points_only(num_steps: int, coarsening: int, reverse: bool) -> None:
    sizes: list[int] = []

    def empty(points: int) -> Tensor:
        sizes.append(points)
        return torch.zeros(points, 2)

    hierarchy = MGRIT(levels=2, coarsening=coarsening, min_coarse_steps=1).hierarchy(num_steps)
    grid = (hierarchy.transpose() if reverse else hierarchy).grids[0]
    states = CPointsOnly(grid, empty)
    assert sum(sizes) <= -(-num_steps // grid.interval) + 1
    assert states.c_points.shape == AllPoints(grid, torch.zeros(num_steps + 1, 2)).c_points.shape


class Wide(nn.Module):
    """form="residual": a block that computes with sixteen times its state."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 16 * WIDTH), nn.Linear(16 * WIDTH, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.1 * self.down(torch.tanh(self.up(u)))


@pytest.mark.parametrize("chunk", [1, 2])
def test_what_blocks_compute_with_does_not_pile_up(chunk: int) -> None:
    """With C-points only: graphs of `chunk` layers at a time, whatever the depth, on every level, both ways."""
    x = inputs(BATCH, WIDTH)

    def peak_of_a_training_step(num_steps: int) -> float:
        solver = MGRIT(levels=3, coarsening=4, store="c_points", chunk=chunk, iterations=1, adjoint_iterations=1)
        net = network(Wide, num_steps, form="residual", Tf=num_steps, solver=solver)
        gradients = sum(parameter.nbytes for parameter in net.parameters())
        with Allocations() as memory:
            net(x).sum().backward()
        return (memory.peak - gradients) / (x.numel() * x.element_size())

    # of each further C-point three states at most, and some on the coarsest level; a layer's own 16 + 16 + … never
    assert (peak_of_a_training_step(96) - peak_of_a_training_step(48)) / 48 < 0.85


REDISCRETISED = MGRIT(coarse_operator="rediscretised")  # a Picard step's own scratch would hide what is kept


@pytest.mark.parametrize(
    "module",
    [lambda: LayerParallel(None, lambda: DenseBlock(16), 128, 1.0, solver=REDISCRETISED), lambda: GRU(16, 16)],
    ids=["layers", "gru"],
)
def test_nothing_is_kept_for_a_gradient_that_cannot_come(module: Callable[[], nn.Module]) -> None:
    net, x = module(), torch.randn(128, 64, 16)

    def peak(grad: bool) -> int:
        with torch.set_grad_enabled(grad), Allocations() as allocations:
            net(x if isinstance(net, GRU) else x[0])
        return allocations.peak

    assert peak(False) < 0.85 * peak(True)


@pytest.mark.parametrize("relaxation", ["F", "FCF"])
def test_the_final_residual_of_a_tolerance_that_was_met_is_the_same_of_both_stores(relaxation: Any) -> None:
    """The cycle that met it ends with its residual; the F-points that it was taken from are then let go of."""
    options: dict[str, Any] = {"levels": 2, "iterations": 9, "relaxation": relaxation, "coarse_operator": "linear"}
    net, results = network(num_steps=32), []
    for store in ("all", "c_points"):
        net.solver = MGRIT(**options, tolerance=1e-2, final_residual=True, store=store)
        net(torch.linspace(-1, 1, 3 * WIDTH, dtype=torch.float64).view(3, WIDTH))
        results.append(net.forward_result)
    of_all, of_c_points = results
    assert 0 < of_all.iterations < 9 and of_all.converged
    assert of_all.final_residual == of_all.residual_norms[-1] == pytest.approx(of_c_points.final_residual, rel=1e-9)
