"""tune: what it returns is within the aim and the cheapest tried; it is bounded, and leaves the network as it was."""

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lpgpu import GRU, MGRIT, LayerParallel, Serial, tune, verify
from lpgpu.nn import DenseBlock
from lpgpu.nn import tune as tuning_module
from lpgpu.nn.candidates import CYCLES, Family, Search, families
from lpgpu.nn.memory import peak_bytes
from lpgpu.nn.solver_module import solver_modules
from lpgpu.nn.tune import search
from tests.nn.networks import WIDTH

Step = Callable[[], object]


def network(steps: int = 64, **options) -> tuple[nn.Sequential, Step]:
    """A stem, layers and a head, in fp64, and its step."""
    deep = LayerParallel(None, lambda: DenseBlock(WIDTH), steps, 4.0, **options)
    net = nn.Sequential(nn.Linear(3, WIDTH), deep, nn.Linear(WIDTH, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    return net, lambda: net(x).square().mean().backward()


@pytest.mark.parametrize("aim", [1e-2, 1e-6])
def test_by_depth_within_the_aim_and_shallower_than_serial(aim, capsys):
    own = MGRIT(store="c_points")
    net, step = network(solver=own)
    solver = tune(net, step, gradient_error=aim, by="depth", max_tries=25)
    printed = capsys.readouterr().out
    assert net[1].solver is own  # the caller assigns
    assert isinstance(solver, MGRIT) and solver.store == "c_points"
    for part in solver_modules(net):
        part.solver = solver
    report = verify(net, step)
    assert report.gradient <= aim and report.depth < report.exact_depth
    (chosen,) = [line for line in printed.splitlines() if "<- chosen" in line]
    assert f" {report.depth} " in chosen and f"{report.gradient:.1e}" in chosen


def test_the_chosen_is_the_cheapest_of_those_tried():
    net, step = network()
    found = search(net, step, by="depth", max_tries=25)
    within = [tried for tried in found.tried if tried.gradient_error <= 1e-2]
    assert min(within, key=lambda tried: tried.depth).solver == found.solver
    depths, errors = zip(*((tried.depth, tried.gradient_error) for tried in found.front), strict=True)
    assert list(depths) == sorted(depths) and list(errors) == sorted(errors, reverse=True)
    assert all(tried.memory and tried.memory > 0 for tried in found.front)


def test_by_time_with_a_clock_of_our_own(monkeypatch):
    """A machine whose seconds are 1 a dependent evaluation and 1/200 any: the times are what is minimised."""

    def seconds(bench, solver) -> float:
        work = bench.work(solver)
        return work.depth + work.evaluations / 200

    monkeypatch.setattr(tuning_module._Bench, "_seconds", seconds)
    monkeypatch.setattr(tuning_module._Bench, "work", tuning_module._Bench._work, raising=False)
    net, step = network()
    found = search(net, step, by="time", max_tries=25)
    within = [tried for tried in found.tried if tried.gradient_error <= 1e-2]
    assert min(within, key=lambda tried: tried.seconds).solver == found.solver != Serial()
    a, b = tuning_module._fitted(list(found.tried))
    assert (a, b) == pytest.approx((1, 1 / 200))


def test_serial_where_nothing_else_is_within_the_aim():
    net, step = network(steps=8)
    assert tune(net, step, gradient_error=1e-30, by="depth", max_tries=5, progress=False) == Serial()


def test_tries_are_bounded_and_counted():
    net, step = network()
    calls: list[int] = []
    found = search(net, lambda: (calls.append(1), step()), by="depth", max_tries=3, gradient_error=1e-9)
    assert len(found.tried) == 1 + 3  # exact propagation, and three
    assert len(calls) == 2 + 2 * 3 + 2 * len(found.front)


def test_seconds_are_bounded(monkeypatch):
    clock: Iterator[float] = iter(range(0, 100000, 50))
    monkeypatch.setattr(tuning_module.time, "perf_counter", lambda: float(next(clock)))
    net, step = network()
    found = search(net, step, by="depth", max_tries=1000, max_seconds=1e3, gradient_error=1e-9)
    assert 2 <= len(found.tried) < 15


def test_several_networks_and_recurrent_ones():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = GRU(3, WIDTH, solver=Serial())
            self.deep = LayerParallel(None, lambda: DenseBlock(WIDTH), 16, 1.0, solver=Serial())

        def forward(self, x):
            return self.deep(self.gru(x)[1][-1])

    net, x = Two().double(), torch.randn(48, 5, 3, dtype=torch.float64)
    found = search(net, lambda: net(x).square().mean().backward(), by="depth", max_tries=12)
    assert found.tried[0].depth == 2 * (48 + 16)
    assert found.solver != Serial()
    assert net.gru.solver == net.deep.solver == Serial()


def test_a_solver_that_needs_too_much_memory_is_passed_over():
    net, step = network(steps=16)

    def hungry() -> None:
        step()
        if net[1].solver != Serial():
            raise torch.OutOfMemoryError("too much")

    assert search(net, hungry, by="depth", max_tries=4).solver == Serial()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"gradient_error": 0.0}, ValueError, "gradient_error is 0"),
        ({"gradient_error": float("nan")}, ValueError, "gradient_error is nan"),
        ({"gradient_error": "small"}, TypeError, "gradient_error is 'small'"),
        ({"by": "memory"}, ValueError, "by is 'memory'"),
        ({"max_tries": 0}, ValueError, "max_tries is 0"),
        ({"max_seconds": -1}, ValueError, "max_seconds is -1"),
    ],
)
def test_bad_options(options, error, says):
    net, step = network(steps=4)
    with pytest.raises(error, match=says):
        tune(net, step, **options)


def test_bad_steps_are_refused_as_by_verify():
    net, _ = network(steps=4)
    with pytest.raises(ValueError, match="did not run the network"):
        tune(net, lambda: None)
    with pytest.raises(TypeError, match=r"nn\.Module"):
        tune(3, lambda: None)  # pyright: ignore[reportArgumentType]


@given(num_steps=st.integers(1, 2000))
def test_families_fit_the_network(num_steps):
    for family in families(num_steps, MGRIT()):
        solver = family.member(0)
        grids = solver.hierarchy(num_steps).grids
        assert len(grids) == solver.levels  # no family in which a level would be left out
        assert solver.coarse_operator != "picard" or solver.picard_order < solver.coarsening_per_level[0]


@given(st.floats(1e-3, 10), st.floats(1.5, 100), st.floats(1e-8, 1e-1))
def test_a_search_finds_the_fewest_cycles_within_the_aim(first, fall, aim):
    """Of one family, whose errors fall by a factor a member: the member before the one that is found is not enough."""
    family, tries = Family(MGRIT()), 0
    queue = Search([family], aim)
    while (coming := queue.next(lambda solver: solver.iterations, 100)) is not None:
        _, place = coming
        family.errors[place] = first / fall**place
        tries += 1
    enough = [place for place in range(len(CYCLES)) if first / fall**place <= aim]
    within = [place for place, error in family.errors.items() if error <= aim]
    if fall > 2:  # slower than that is stagnation
        assert (min(within) == enough[0]) if enough else not within
    assert tries <= len(CYCLES)


def test_a_family_that_stagnates_or_diverges_is_left():
    for errors in ({0: 1.0, 1: 0.9}, {0: float("nan")}, {2: 3.0, 3: float("inf")}):
        assert Search([Family(MGRIT(), errors)], 1e-2).next(lambda solver: 1.0, 100) is None


def test_what_costs_more_than_the_best_is_left_out():
    queue = Search([Family(MGRIT(), {0: 0.1}), Family(MGRIT(levels=2), {0: 0.1})], 1e-2)
    coming = queue.next(lambda solver: solver.levels, 3)
    assert coming is not None and coming[0].solver.levels == 2
    assert len(queue.families) == 1


def test_peak_memory():
    def compute() -> None:
        a = torch.zeros(1000, dtype=torch.float64)
        b = a + 1
        del a
        b.sum()

    assert 16000 <= peak_bytes(compute, torch.device("cpu")) < 16100
